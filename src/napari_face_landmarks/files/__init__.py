"""Reading and writing files safely: atomic writes, untrusted npz and ONNX, locks, optional libraries."""
