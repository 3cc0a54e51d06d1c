"""The reliability table of tests/README.md: each row names the tests that show it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes
    ----------
    what : str
        The fault.
    happens : str
        What the user sees.
    kept : str
        What is not lost.
    tests : tuple of str
        Those that show it, as ``file::test`` or ``file::test[case]``.
    """

    what: str
    happens: str
    kept: str
    tests: tuple[str, ...]


SENTENCE = "one sentence, status 2"
BAD = "test_faults.py::test_bad_input_is_one_sentence_and_loses_nothing"
FAULTS = (
    Fault(
        "input that is not a video: empty, text, noise, image, archive, audio only, folder, pipe, playlist",
        SENTENCE,
        "an earlier output is unchanged",
        tuple(
            f"{BAD}[{case}]"
            for case in ("an empty file", "text", "noise", "a picture", "an archive", "sound only")
        )
        + tuple(f"{BAD}[{case}]" for case in ("a folder", "a pipe", "a playlist")),
    ),
    Fault(
        "a truncated video",
        "a warning states how much is missing, status 2",
        "every frame that can be read",
        (
            "test_video.py::test_the_usable_part_of_a_truncated_file_is_read",
            "test_cli.py::test_what_can_be_read_of_a_broken_video_is_kept",
        ),
    ),
    Fault(
        "damaged frames",
        "named in warnings and left without landmarks; the run continues",
        "frame numbers, time stamps, all other frames",
        (
            "test_faults.py::test_damaged_frames_are_marked_and_tracking_goes_on",
            "test_video.py::test_damage_in_the_middle_keeps_the_count_and_the_rest",
        ),
    ),
    Fault(
        "frames with errors that the decoder conceals",
        "a warning states their number and lists the first ones",
        "all frames, with landmarks",
        ("test_faults.py::test_frames_that_the_decoder_mended_are_told_in_one_sentence",),
    ),
    Fault(
        "unusual videos: variable frame rate, 10 bit, greyscale, alpha, interlaced, rotated, edit lists, "
        "wrong frame counts, one frame, 1 x 1 to 8K",
        "decoded correctly",
        "all",
        (
            "test_faults.py::test_strange_but_whole_videos_are_tracked",
            "test_faults.py::test_one_frame_one_pixel_and_names_of_any_letters",
            "test_faults.py::test_interlaced_video_is_read_whole",
            "test_video.py::test_every_frame_is_the_right_one_in_order_and_at_random",
            "test_video.py::test_frames_are_turned_upright",
            "test_numerics.py::test_frames_of_odd_sizes",
            "test_numerics.py::test_a_frame_of_8k",
        ),
    ),
    Fault(
        "a video without a face",
        SENTENCE,
        "the output, with all frames marked as having no face",
        ("test_cli.py::test_no_face_is_said_and_the_empty_result_is_kept",),
    ),
    Fault(
        "frames larger than 8192 x 8192",
        SENTENCE,
        "an earlier output",
        (f"{BAD}[frames larger than any]",),
    ),
    Fault(
        "a file that is changed or removed while it is read",
        "the run ends with a warning",
        "the frames before",
        ("test_video.py::test_a_file_replaced_meanwhile_is_noticed",),
    ),
    Fault(
        "a lazy array that raises an error during the run",
        "a warning with the reason",
        "the frames before",
        ("test_tracking.py::test_a_source_that_breaks_off_keeps_what_was_tracked",),
    ),
    Fault(
        "pixels that do not use the range of their dtype: 8 to 14 bits in uint16, floats beyond 0 to 1",
        "their range is determined, used for the whole run and recorded; a warning states it",
        "the landmarks that are found",
        (
            "test_faults.py::test_pixels_that_do_not_use_their_range_are_reported_once",
            "test_images.py::test_the_range_of_pixels_is_found_from_them",
        ),
    ),
    Fault(
        "pixels that are NaN or infinite, or of an unsupported dtype",
        "these frames have no face; a warning for each",
        "all other frames",
        (
            "test_faults.py::test_pixels_that_are_no_numbers_and_odd_types",
            "test_tracking.py::test_frames_that_are_not_finite_count_as_faceless",
        ),
    ),
    Fault(
        "file names in any script, too long, not decodable, or that differ in case only",
        "used, or refused with one sentence",
        "all",
        (
            "test_faults.py::test_one_frame_one_pixel_and_names_of_any_letters",
            "test_batch.py::test_names_that_are_no_text_stop_nothing",
            "test_files.py::test_outputs_differ_on_drives_that_take_names_for_the_same",
            f"{BAD}[a name that is too long]",
            f"{BAD}[an output whose name is too long]",
        ),
    ),
    Fault(
        "unknown options, values out of range, a missing library for a format",
        f"{SENTENCE}, before anything is computed, with what to install",
        "existing files",
        (
            "test_cli.py::test_bad_input_is_one_sentence_and_status_2",
            "test_settings.py::test_each_number_is_refused_outside_its_range",
            "test_formats.py::test_a_format_that_cannot_be_written_is_refused_before_tracking",
            "test_batch.py::test_without_distributed_a_sentence_says_what_to_install",
        ),
    ),
    Fault(
        "damaged files of settings or regions, or with unknown names in them",
        SENTENCE,
        "nothing is started",
        (
            "test_batch.py::test_settings_that_cannot_be_are_refused_with_the_file_in_the_sentence",
            "test_regions.py::test_values_that_tell_no_boxes_are_refused",
        ),
    ),
    Fault(
        "an output that cannot be written: a folder, write-protected, below a file, the video itself",
        f"{SENTENCE}, before anything is computed",
        "existing files",
        tuple(
            f"{BAD}[an output {case}]"
            for case in (
                "that is a folder",
                "where nothing can be written",
                "below a file",
                "that is the video",
            )
        ),
    ),
    Fault(
        "a full disk",
        SENTENCE,
        "the old file, complete; no partial new one; the checkpoint",
        (
            "test_faults.py::test_a_full_disk_leaves_the_old_file_and_no_half_of_a_new_one",
            "test_checkpoint.py::test_a_full_disk_loses_nothing_that_was_written",
        ),
    ),
    Fault(
        "network drives without locks or without synchronisation",
        "used without them",
        "all, as long as two runs do not write to one output",
        ("test_files.py::test_a_drive_without_locks_or_syncing_is_written_to_all_the_same",),
    ),
    Fault(
        "kill -9, a power failure",
        "`--resume` resumes from the checkpoint",
        "all but the last 2 seconds; the result is that of an uninterrupted run, bit for bit",
        (
            "test_checkpoint.py::test_a_killed_run_goes_on_bit_for_bit",
            "test_checkpoint.py::test_a_journal_that_is_cut_or_damaged_anywhere_is_gone_on_from_bit_for_bit",
        ),
    ),
    Fault(
        "a checkpoint that is truncated or damaged anywhere",
        "the run resumes from the last intact state",
        "all frames; the result is that of an uninterrupted run, bit for bit",
        ("test_checkpoint.py::test_a_journal_that_is_cut_or_damaged_anywhere_is_gone_on_from_bit_for_bit",),
    ),
    Fault(
        "a checkpoint of another video, other settings, regions, models, or another version",
        SENTENCE,
        "the checkpoint",
        (
            "test_checkpoint.py::test_a_run_that_does_not_fit_its_journal_is_refused_in_one_sentence",
            "test_regions.py::test_boxes_from_the_command_line_are_part_of_the_run",
        ),
    ),
    Fault(
        "Ctrl-C",
        "reports how many frames are done, status 130",
        "the finished frames",
        ("test_cli.py::test_ctrl_c_keeps_the_frames_that_are_done",),
    ),
    Fault(
        "a video of a batch that cannot be tracked",
        "its row in the summary gives the reason",
        "the results of all others",
        ("test_batch.py::test_videos_with_three_bad_ones_and_a_second_time",),
    ),
    Fault(
        "a worker process of a batch that dies, for example out of memory",
        "its video is started once more; then its row gives the reason",
        "all other videos, and the finished frames of this one",
        ("test_batch.py::test_a_process_that_is_killed_costs_a_second_try_and_twice_that_video_only",),
    ),
    Fault(
        "a lost machine of a cluster",
        "its videos resume on another one",
        "all; the results are those of a local run",
        ("test_batch.py::test_a_cluster_of_two_processes_of_which_one_is_killed",),
    ),
    Fault(
        "a batch that is stopped, or a machine that is switched off",
        "`batch --resume` resumes it",
        "finished videos, and finished frames of the others",
        ("test_batch.py::test_ctrl_c_ends_every_process_and_the_batch_goes_on_later",),
    ),
    Fault(
        "a summary that is open in another program or cannot be written",
        "reported after all videos are done, status 2",
        "all landmarks",
        ("test_batch.py::test_a_summary_that_cannot_be_written_stops_no_video",),
    ),
    Fault(
        "an output of a batch that already exists and belongs to another video or to `track`, or was edited",
        SENTENCE,
        "that file",
        (
            "test_batch.py::test_a_result_of_another_video_is_never_written_over",
            "test_batch.py::test_a_result_that_was_edited_is_kept_and_an_empty_one_is_made_again",
        ),
    ),
    Fault(
        "two batches in one folder",
        SENTENCE,
        "the first",
        ("test_batch.py::test_two_batches_in_one_folder_are_refused",),
    ),
    Fault(
        "chunks of a long video (`--cut`) that do not match at their joins",
        "the frames there are tracked again",
        "all; the result is that of an uncut run within 1e-4 px",
        (
            "test_batch.py::test_a_video_cut_into_pieces_is_joined_without_a_seam",
            "test_batch.py::test_states_that_differ_are_not_joined_and_tracked_again_instead",
        ),
    ),
    Fault(
        "a run in napari that was cancelled or ended with napari",
        "Run resumes it",
        "the finished frames",
        ("test_widget_resume.py::test_a_cancelled_run_goes_on_and_gives_what_an_uninterrupted_one_gives",),
    ),
    Fault(
        "propagation that reaches manually corrected frames",
        "it stops there and blends into them",
        "every manual landmark, in files too",
        (
            "test_correction.py::test_between_two_corrected_frames_both_ways_are_blended",
            "test_correction.py::test_a_stretch_that_is_broken_off_changes_nothing",
            "test_correction.py::test_corrections_survive_saving",
        ),
    ),
    Fault(
        "the worker process of a run in napari dies or cannot be started",
        "it is reported; a run that did not start is computed by napari itself",
        "the finished frames",
        (
            "test_remote_run.py::test_killed_it_leaves_the_finished_frames_and_says_so",
            "test_remote_run.py::test_where_no_process_begins_the_run_is_done_here",
        ),
    ),
    Fault(
        "layers removed or changed, or the window closed, during a run in napari",
        "the run ends, with a sentence if the reason is not obvious",
        "the points that were added",
        (
            "test_widget.py::test_removing_the_video_ends_the_run",
            "test_widget.py::test_removing_the_landmarks_ends_the_run",
            "test_widget.py::test_closing_ends_the_run",
            "test_widget.py::test_an_error_on_the_way_keeps_what_is_finished",
        ),
    ),
    Fault(
        "landmark files that are damaged, of another program or of an unknown format",
        SENTENCE,
        "an earlier output",
        (
            f"{BAD}[half of an archive]",
            f"{BAD}[a table of others]",
            f"{BAD}[results of no format]",
            "test_formats.py::test_damaged_files_are_refused_in_one_sentence",
        ),
    ),
    Fault(
        "a file that claims more data than it has, or contains a pickle",
        f"{SENTENCE}, in under a second and 64 MB",
        "nothing in it is executed",
        (
            "test_fuzz.py::test_damaged_files_are_refused_in_a_sentence_quickly_and_in_little_memory",
            "test_fuzz.py::test_an_archive_may_not_lie_about_the_length_of_an_array",
            "test_formats.py::test_pickles_in_deeplabcuts_files_are_read_and_not_run",
            "test_untrusted.py::test_the_source_has_no_pickle_no_code_from_text_and_no_network",
        ),
    ),
    Fault(
        "an HDF5 or netCDF file that would make the HDF5 library crash or loop forever",
        f"{SENTENCE}, before the library reads it",
        "the process",
        (
            "test_fuzz.py::test_what_breaks_the_hdf5_library_is_refused_before_it_is_read",
            "test_fuzz.py::test_references_of_netcdf_are_not_followed",
            "test_fuzz.py::test_attributes_of_other_kinds_than_texts_are_refused",
            "test_fuzz.py::test_a_heap_of_texts_that_has_no_end_is_refused",
            "test_fuzz.py::test_a_block_for_another_driver_is_not_read_at_the_length_that_it_claims",
        ),
    ),
    Fault(
        "models that are modified, incomplete or of another kind",
        SENTENCE,
        "nothing is started",
        (
            "test_models.py::test_missing_altered_and_shortened_files_are_refused",
            f"{BAD}[a PFLD that is another network]",
            f"{BAD}[half of the patch experts]",
            "test_provenance.py::test_the_files_of_the_plugins_bundles_are_those_of_their_cards",
        ),
    ),
    Fault(
        "an ONNX file with external weights, loops, functions or custom operators; links out of a folder",
        f"{SENTENCE}, before it is opened",
        "no other file is read",
        (
            "test_fuzz.py::test_networks_that_could_do_harm_are_refused_before_they_are_opened",
            "test_fuzz.py::test_links_out_of_a_model_folder_are_refused",
        ),
    ),
    Fault(
        "an ONNX file that needs more than 512 MB at run time",
        SENTENCE,
        "the process",
        ("test_fuzz.py::test_a_network_runs_in_bounded_memory",),
    ),
    Fault(
        "a network that returns NaN, infinity or coordinates far outside the image",
        "no face on these frames; it is detected again afterwards",
        "all other frames",
        (
            "test_numerics.py::test_what_pfld_says_that_is_no_number_is_no_face",
            "test_numerics.py::test_what_the_detector_says_that_is_no_number_does_no_harm",
        ),
    ),
    Fault(
        "refinement that fails: singular Hessian, no visible landmark, no response, NaN",
        "the frame has PFLD's landmarks and the source `pfld`",
        "all frames",
        ("test_numerics.py::test_where_refinement_breaks_down_pfld_stands",),
    ),
    Fault(
        "a face at the border, larger than the frame, vanishingly small, or occluded",
        "finite landmarks, or no face",
        "all frames",
        ("test_numerics.py::test_faces_where_they_hardly_are",),
    ),
    Fault(
        "several threads or processes at the same time",
        "the same results as in sequence; a lock keeps two processes from one output",
        "both, or the first",
        (
            "test_concurrency.py::test_one_tracker_may_track_from_several_threads",
            "test_concurrency.py::test_trackers_of_one_process_do_not_disturb_each_other",
            "test_concurrency.py::test_two_processes_on_one_output_leave_a_whole_file",
            "test_checkpoint.py::test_two_runs_to_one_output_are_refused",
        ),
    ),
    Fault(
        "hours of video",
        "memory, open files and threads do not grow",
        "all",
        (
            "test_soak.py::test_half_a_minute_of_video_leaves_memory_files_and_threads_as_they_were",
            "test_soak.py::test_two_hours_of_video",
        ),
    ),
    Fault(
        "no network",
        "nothing changes: it is never used",
        "all",
        ("test_untrusted.py::test_tracking_and_evaluating_use_no_network_and_start_no_program",),
    ),
    Fault(
        "a result whose origin is in question",
        "its file states version, settings, SHA-256 of the models, versions of the libraries",
        "all that is needed to reproduce it",
        ("test_provenance.py::test_a_result_is_made_again_from_what_its_file_says",),
    ),
)


def test_every_row_has_tests_that_are_there() -> None:
    named = {test.partition("::")[0] for fault in FAULTS for test in fault.tests}
    texts = {file: (TESTS / file).read_text(encoding="utf-8") for file in named}
    functions = {file: set(re.findall(r"^def (\w+)", text, re.MULTILINE)) for file, text in texts.items()}
    for fault in FAULTS:
        assert fault.tests, fault.what
        for test in fault.tests:
            file, _, name = test.partition("::")
            name, _, case = name.partition("[")
            assert name in functions[file], test
            assert not case or f'"{case.rstrip("]")}"' in texts[file], test
