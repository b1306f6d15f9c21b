"""Mistakes in what keeps files whole, damage noticed and runs apart; as in `tests/mutants.py`."""

from __future__ import annotations

from tests.mutants import Mutant

FILES, SHARDS = "tests/entk/test_hostile_files.py", "tests/entk/test_hostile_shards.py"
STORE, JOINED, LOCK = (f"tests/entk/test_{name}.py" for name in ("store", "shards", "lock"))
FORGED, DISTRIBUTED = "tests/entk/test_forged_files.py", "tests/entk/test_distributed.py"
RUNDIR, TWO = "tests/twophase/test_rundir.py", "tests/twophase/test_two_processes.py"
RESUME, UNDERWAY = "tests/twophase/test_resume.py", "tests/twophase/test_underway.py"
NAMES, TRAIN = "tests/twophase/test_hostile_names.py", "tests/twophase/test_train.py"
EDITED = f"{RUNDIR}::test_a_checkpoint_that_was_edited_is_noticed"
RECORDS = f"{RUNDIR}::test_records_and_tables_that_were_changed_or_exchanged_are_noticed"
BELONGS, BEGUN = "tests/twophase/test_belongs.py", "tests/twophase/test_begun.py"


def crafted(name: str) -> str:
    return f"{FILES}::test_a_crafted_kernel_is_refused[{name}]"


def changed(name: str) -> str:
    return f"{FILES}::test_what_was_changed_later_is_noticed[{name}]"


def forged(name: str) -> str:
    return f"{FORGED}::test_a_file_that_no_program_wrote_is_refused[{name}]"


def shard(name: str) -> str:
    return f"{SHARDS}::test_a_shard_that_is_not_ours_is_computed_again[{name}]"


def tiles(name: str) -> str:
    return f"{SHARDS}::test_a_shard_of_several_tiles_that_was_changed_is_computed_again[{name}]"


def begun(name: str) -> str:
    return f"{SHARDS}::test_a_request_that_is_not_ours_is_refused[{name}]"


def bad(name: str) -> str:
    return f"tests/entk/test_bad_input.py::test_one_line_that_names_the_offender[{name}]"


def line(name: str) -> str:
    test = "test_a_command_line_ends_in_one_line_and_status_2"
    return f"tests/twophase/test_bad_commands.py::{test}[{name}]"


def call(name: str) -> str:
    return f"tests/twophase/test_bad_calls.py::test_a_call_ends_in_one_line[{name}]"


def resumed(form: str) -> str:
    return f"{RESUME}::test_stopped_at_any_step_it_ends_the_same[{form}-9]"


def killed(job: str) -> str:
    return f"{UNDERWAY}::test_a_job_that_is_killed_at_each_of_its_writes[{job}]"


def none_begun(verb: str, launcher: int) -> str:
    return f"{TWO}::test_nothing_is_begun_where_another_is_at_work[{verb}-launcher{launcher}]"


def jobs(verb: str) -> str:
    return f"{TWO}::test_where_jobs_are_at_work_nothing_is_begun[{verb}]"


def at_once(kind: str) -> str:
    return f"{BEGUN}::test_of_two_that_begin_at_once_one_is_told[{kind}]"


def in_place(what: str) -> str:
    return f"{BELONGS}::test_a_kernel_in_the_place_of_another_is_noticed[{what}-kernels]"


def else_(what: str) -> str:
    return f"{BEGUN}::test_a_study_of_something_else_is_not_gone_on_with[{what}]"


SAFETY = tuple(
    Mutant(name, f"{file}.py", old, new, tests)
    for file, name, old, new, *tests in (
        # files of kernels
        ("entk/store", "the seal of a kernel is not checked", "check_seal(self._file, inside)", "pass", changed("plan"), changed("entry")),
        ("entk/hdf5", "attributes are not under the seal", 'digest.update(f"{name}={attribute(file, name)!r}\\n".encode())', "pass", changed("plan")),
        ("entk/hdf5", "ends of chunks are not under the seal", "head + os.pread(handle, end, chunk.byte_offset + length - end)", "os.pread(handle, CHECKSUM, chunk.byte_offset + length - CHECKSUM)", changed("paired")),
        ("entk/hdf5", "links are followed", "h5py.HardLink):", "h5py.HardLink | h5py.SoftLink):", crafted("soft_link")),
        ("entk/hdf5", "links to other files are followed", "h5py.HardLink):", "h5py.HardLink | h5py.ExternalLink):", crafted("external_link")),
        ("entk/hdf5", "a group may be there twice", "if place in seen:", "if False:", crafted("circle")),
        ("entk/hdf5", "what is no dataset is passed over", 'raise ValueError(f"{lead + name!r:.80} is no dataset")', "continue", crafted("named_type")),
        ("entk/hdf5", "datasets that do not belong there are passed over", 'raise ValueError(f"dataset {name!r:.80} does not belong there")', "continue", crafted("extra")),
        ("entk/hdf5", "layouts are not looked at", "made.get_layout() != h5py.h5d.CHUNKED or made.get_external_count()", "made.get_external_count()", crafted("virtual"), crafted("contiguous")),
        ("entk/hdf5", "a dataset in chunks may lie in other files", " or made.get_external_count()", "", forged("storage_elsewhere")),
        ("entk/hdf5", "filters are not looked at", "for i in range(made.get_nfilters())] != FILTERS", "for i in range(made.get_nfilters())] is None", crafted("shuffle"), crafted("no_checksum")),
        ("entk/hdf5", "dtypes are not looked at", "if dataset.dtype != np.dtype(dtype):", "if False:", crafted("double"), crafted("big_endian")),
        ("entk/hdf5", "shapes are not looked at", "if dataset.shape != shape or dataset.maxshape != shape:", "if False:", crafted("other_shape"), crafted("chunk_bomb")),
        ("entk/hdf5", "a shape may be larger than its file", "if math.prod(shape) * np.dtype(dtype).itemsize > size:", "if False:", crafted("shape_bomb_of_the_plan")),
        ("entk/hdf5", "chunks may be larger than the kernel", "if any(c > n for c, n in zip(dataset.chunks, shape, strict=True)):", "if False:", forged("chunks_that_are_huge")),
        ("entk/hdf5", "chunks may be missing", "if dataset.id.get_num_chunks() != wanted:", "if False:", crafted("missing_chunks")),
        ("entk/hdf5", "chunks may leave their checksum out", "if chunk.filter_mask or chunk.size != length:", "if chunk.size != length:", crafted("chunk_without_checksum")),
        ("entk/hdf5", "chunks may have any size", "if chunk.filter_mask or chunk.size != length:", "if chunk.filter_mask:", crafted("chunk_of_another_size")),
        ("entk/hdf5", "texts of variable length are read", "if found.shape != () or not (text or found.dtype == np.float64):", "if found.shape != ():", crafted("text_of_variable_length")),
        ("entk/hdf5", "errors of parsers pass through", "BROKEN = (OSError, RuntimeError, LookupError, ValueError, TypeError,", "BROKEN = (OSError, RuntimeError, LookupError, TypeError,", crafted("plan_is_numbers")),
        ("entk/hdf5", "nesting that is too deep passes through", "BROKEN = (OSError, RuntimeError,", "BROKEN = (OSError,", crafted("nested_deep")),
        ("entk/hdf5", "a lack of memory passes through", "ArithmeticError, MemoryError)", "ArithmeticError)", f"{FORGED}::test_a_file_too_large_to_be_read_is_refused"),
        ("entk/hdf5", "an error about a file is wrapped once more", "if isinstance(error, KernelFileError):", "if False:", f"{STORE}::test_not_a_kernel"),
        ("entk/shards", "kernels have no checksums", "plan.dtype, chunks=chunks, fletcher32=True)", "plan.dtype, chunks=chunks)", f"{STORE}::test_plain_hdf5_with_provenance"),
        ("entk/shards", "a joined kernel is not read back", "whole.part(name, index)", "pass", f"{JOINED}::test_a_byte_lost_on_the_way_to_the_file_is_noticed[middle-kernel]"),
        ("entk/shards", "a shard is not compared with its tiles", "if not np.array_equal(written, part.numpy(), equal_nan=True):", "if False:", f"{JOINED}::test_a_shard_that_does_not_hold_what_was_computed_is_not_kept"),
        # shards
        ("entk/shard", "the seal of a shard is not checked", "check_seal(file, found)", "pass", tiles("exchanged")),
        ("entk/shard", "checksums of tiles are not read", "part[()]", "part", tiles("middle")),
        ("entk/shard", "a shard of another kernel is taken", "if attribute(file, BELONGS) != belongs:", "if False:", shard("of_another_kernel")),
        ("entk/shard", "a pipe is opened", "if not shard.is_file():", "if False:", f"{SHARDS}::test_a_pipe_in_the_place_of_a_shard_is_not_waited_for"),
        ("entk/shards", "the checksum of a request is not checked", 'if begun["sha256"] != _digest(begun):', "if False:", begun("changed plan"), begun("changed")),
        ("entk/shards", "the plan is not under the checksum", 'json.dumps([record["request"], record["plan"]])', 'json.dumps([record["request"]])', begun("changed plan")),
        ("entk/shards", "the request is not under the checksum", 'json.dumps([record["request"], record["plan"]])', 'json.dumps([record["plan"]])', begun("changed")),
        ("entk/shards", "another request goes on", "        if differs:\n", "        if False:\n", f"{STORE}::test_another_request_is_refused[False-data]"),
        ("entk/shards", "another plan goes on", "if begun is not None and not begun.same_bits(plan):", "if False:", f"{STORE}::test_another_plan_is_refused_and_the_first_is_kept"),
        ("entk/store", "a name is there before its bytes", "os.fsync(handle.fileno())", "pass", f"{JOINED}::test_a_name_is_on_the_disk_after_its_bytes_and_before_the_call_ends"),
        ("entk/store", "a name may be lost", "sync_folder(final.parent)", "pass", f"{JOINED}::test_a_name_is_on_the_disk_after_its_bytes_and_before_the_call_ends"),
        # numbers that are none
        ("entk/request", "NaN in parameters passes", "check_finite_parameters(model, names)\n", "pass\n", bad("NaN parameter")),
        ("entk/request", "NaN in samples passes", "if not y.isfinite().all():", "if False:", bad("NaN sample"), bad("NaN in z")),
        ("entk/assemble", "NaN in tiles passes", "self._check_finite(i, j, tile)\n", "pass\n", bad("infinite derivative later")),
        ("entk/capture", "NaN in outputs passes", "if not finite.all():", "if False:", bad("NaN buffer")),
        ("entk/layouts", "NaN in derivatives passes", "if not all(bool(g.isfinite().all()) for g in pair):", "if False:", bad("infinite derivative")),
        ("twophase/sources", "NaN in data passes", "if not torch.isfinite(x).all():", "if False:", call("NaN")),
        ("twophase/train", "a loss of NaN passes", "if not math.isfinite(loss):", "if False:", f"{TRAIN}::test_divergence_names_step_and_rate"),
        ("twophase/train", "weights of infinity pass", "if not all(p.isfinite().all() for p in parameters):", "if False:", f"{TRAIN}::test_overflow_in_the_last_step_is_noticed"),
        # one process at a time
        ("entk/lock", "the lock is not taken", "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", f"{LOCK}::test_the_second_hears_who_the_first_is"),
        ("entk/lock", "a lock whose file is gone counts", "if _is_at(handle, path):", "if True:", f"{LOCK}::test_never_two_at_once"),
        ("entk/lock", "a lock is written through a link", " | os.O_NOFOLLOW", "", f"{LOCK}::test_a_lock_that_is_a_link_is_not_written_through"),
        ("entk/write", "kernels are written without a lock", "stack.enter_context(exclusive(store.folder))", "pass", f"{LOCK}::test_write_ntk_waits_for_nobody_and_reads_without"),
        ("entk/shards", "shards of one at work are removed", "with suppress(LockedError, OSError), exclusive(self.folder):", "with suppress(LockedError, OSError):", f"{LOCK}::test_write_ntk_waits_for_nobody_and_reads_without"),
        ("twophase/cli", "stages are done without a lock", "with nullcontext() if done else alone(run.path), Bars() as bars:", "with Bars() as bars:", f"{TWO}::test_a_run_that_is_being_written[train]", none_begun("run", 0)),
        ("twophase/launch", "a run or a sweep is sent out without a lock", "with alone(target.path):", "if True:", none_begun("run", 1), none_begun("sweep", 1)),
        ("twophase/cli", "a sweep is done without a lock", "with alone(sweep.path), Bars() as bars:", "with Bars() as bars:", none_begun("sweep", 0)),
        ("twophase/cli", "a report of a sweep has no lock", "with alone(Path(first)):", "with nullcontext():", f"{TWO}::test_a_report_that_another_writes[of a sweep]"),
        ("twophase/cli", "a report of several runs has no lock", "with alone(out):", "with nullcontext():", f"{TWO}::test_a_report_that_another_writes[of several runs]"),
        ("twophase/sweep", "a point is done without a lock", "with alone(run.path):", "if True:", f"{TWO}::test_a_sweep_and_its_points[seed=0-point seed=0: ]"),
        ("twophase/recorder", "a recorder has no lock", "held.__enter__()", "pass", f"{TWO}::test_a_second_recorder"),
        ("twophase/disk", "what holds a folder does not lock it", "with exclusive(folder):", "if True:", *(f"{TWO}::test_a_second_study[{part}]" for part in ("cone", "twins", "report"))),
        ("twophase/study", "a study's kernels have no lock", "with alone(run.path), _ours():", "with _ours():", f"{TWO}::test_a_second_study[cone]"),
        ("twophase/study", "a study's twins have no lock", "with alone(run.path):\n", "if True:\n", f"{TWO}::test_a_second_study[twins]"),
        ("twophase/study", "a study's report has no lock", "with alone(self.run.path):", "if True:", f"{TWO}::test_a_second_study[report]"),
        ("twophase/jobs", "jobs at work are not asked for", "    if found:\n        raise", "    if False:\n        raise", jobs("train")),
        ("twophase/cli", "a stage does not ask for jobs at work", "jobs.check_idle(run.path)", "pass", jobs("train")),
        ("twophase/cli", "a sweep does not ask for jobs at work", "jobs.check_idle(sweep.path)", "pass", jobs("sweep")),
        ("twophase/jobs", "any process of that number is the job", "return str(job.paths.folder) in found", "return True", "tests/twophase/test_launch.py::test_a_record_of_jobs_that_are_gone_stands_in_no_way"),
        ("twophase/disk", "temporary files of living processes are removed", "if pid.isdecimal() and not _lives(int(pid)):", "if pid.isdecimal():", f"{RUNDIR}::test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays"),
        ("twophase/disk", "temporary files of other machines are removed", 'folder.rglob(f".*.{socket.gethostname()}.*.tmp")', 'folder.rglob(".*.*.tmp")', f"{RUNDIR}::test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays"),
        ("twophase/disk", "temporary files of the dead stay where a folder is held", "        remove_stale(folder)\n", "        pass\n", f"{TWO}::test_what_a_killed_process_left_goes_before_the_next_begins", f"{TWO}::test_what_a_killed_process_left_beside_runs_goes"),
        ("twophase/disk", "a number that no process has is an error", "except OverflowError:", "except ZeroDivisionError:", f"{RUNDIR}::test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays"),
        ("twophase/disk", "a folder that vanishes is an error", "except FileNotFoundError:", "except ZeroDivisionError:", f"{RUNDIR}::test_folders_that_vanish_while_they_are_looked_at_are_passed_over"),
        ("twophase/rundir", "a run is begun without a lock", "with alone(path):", "if True:", at_once("run"), at_once("study")),
        ("twophase/sweep", "a sweep is begun without a lock", "with alone(path):", "if True:", at_once("sweep")),
        ("twophase/rundir", "who waited for the lock does not look again", "            return cls.begin(path, config, belongs)", "            (path / 'config.toml').unlink(missing_ok=True)\n            return cls.begin(path, config, belongs)", f"{BEGUN}::test_who_waited_for_the_lock_looks_again"),
        # what belongs to something else
        ("twophase/belongs", "a run goes on with other samples", 'check(run, {"data": samples.sha256})', "pass", f"{BELONGS}::test_samples_that_change_between_two_stages_are_noticed"),
        ("twophase/stages", "training goes on with other samples", "belongs.begin(run)", "belongs.datasets.load(run.config)", f"{BELONGS}::test_samples_that_change_between_two_stages_are_noticed"),
        ("twophase/parallel", "workers take other samples", "    return belongs.load(run)", "    return belongs.datasets.load(run.config)", f"{BELONGS}::test_a_worker_and_the_tables_notice_it_too"),
        ("twophase/kernels", "tables are made of other samples", "data = belongs.load(run) if", "data = belongs.datasets.load(run.config) if", f"{BELONGS}::test_a_worker_and_the_tables_notice_it_too"),
        ("twophase/belongs", "samples are recorded whenever it trains", 'if any(run.path.glob("checkpoints/*/*.safetensors")):', "if False:", f"{BELONGS}::test_samples_that_change_between_two_stages_are_noticed"),
        ("twophase/data", "labels have no digest", "{k: digest({k: t}) for k, t in", "{k: digest({k: t}) if k[0] == 'x' else '' for k, t in", f"{BELONGS}::test_samples_that_change_between_two_stages_are_noticed"),
        ("twophase/digests", "the order of bytes is that of memory", "part.cpu().contiguous()", "part.cpu().permute(sorted(range(part.dim()), key=lambda d: -part.stride(d)))", f"{BELONGS}::test_bytes_out_of_order_have_the_digest_of_those_in_order"),
        ("twophase/kernels", "kernels are not compared with their checkpoints", "if run.load_record(origin) != found:", "if False:", *map(in_place, ("two steps", "another training"))),
        ("twophase/kernels", "a kernel may be of another state", '"evaluated": asked[path]["state_sha256"]}', '"evaluated": run.load_record(origin)["evaluated"]}', *map(in_place, ("two steps", "another training"))),
        ("twophase/cone", "the cone takes any kernels", "kernels.check(run)", "pass", f"{BELONGS}::test_a_kernel_in_the_place_of_another_is_noticed[two steps-cone]"),
        ("twophase/kernels", "a kernel that was there before is taken", "[run.kernel_origin(arm, step)] if run.belongs.exists()", "[run.kernel_origin(arm, step)] if run.kernel_origin(arm, step).exists()", f"{BELONGS}::test_a_kernel_that_lay_there_before_is_noticed"),
        ("twophase/study", "a study goes on with anything", "belongs.check(run, found)", "pass", *map(else_, ("checkpoint", "labels", "network"))),
        ("twophase/belongs", "a study goes on with other checkpoints", "hashlib.file_digest(file, \"sha256\").hexdigest()", "\"\"", else_("checkpoint")),
        ("twophase/belongs", "a network is its class and text", '"outputs": y.tolist()}', '"outputs": [0]}', else_("network")),
        ("twophase/belongs", "outputs are compared bit for bit", "<= ROUNDING * b.abs().max()", "<= 0", f"{BEGUN}::test_outputs_may_differ_by_rounding_only"),
        ("twophase/study", "a study has no digests of its samples", "sha256 = datasets.digests(*given, *test)", "sha256 = {}", else_("labels")),
        # files of runs
        ("twophase/disk", "files appear before they are whole", "temporary.replace(path)", "path.write_bytes(content)", f"{RUNDIR}::test_a_name_is_on_the_disk_after_its_bytes_and_before_the_call_ends"),
        ("twophase/disk", "files appear before they are on the disk", "os.fsync(file.fileno())", "pass", f"{RUNDIR}::test_a_name_is_on_the_disk_after_its_bytes_and_before_the_call_ends"),
        ("twophase/disk", "names of files may be lost", "_sync(path.parent)", "pass", f"{RUNDIR}::test_a_name_is_on_the_disk_after_its_bytes_and_before_the_call_ends"),
        ("twophase/disk", "what was not written stays", "temporary.unlink(missing_ok=True)\n", "pass\n", f"{RUNDIR}::test_a_failed_write_leaves_the_old_file_and_no_other"),
        ("twophase/disk", "a pipe is read", "if not path.is_file():  # a pipe would block\n", "if False:\n", f"{RUNDIR}::test_a_pipe_in_the_place_of_a_file_is_not_waited_for"),
        ("twophase/disk", "links out of a run are followed", "if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):", "if False:", line("run with a link out")),
        ("twophase/disk", "only the run's own folder is looked at", "todo.append(Path(entry.path))", "pass", line("run with a link out below")),
        ("twophase/disk", "pipes in a run are passed over", "elif not entry.is_file() and not entry.is_symlink() and os.path.lexists(entry.path):", "elif False:", line("run with a pipe")),
        ("twophase/rundir", "a run's links are not looked at", "check_tree(path)", "pass", line("run with a link out")),
        ("twophase/sweep", "a sweep's links are not looked at", "check_tree(path)", "pass", line("sweep with a link out")),
        ("twophase/rundir", "names lead out of runs/", "if Path(name).name != name or", "if", line("name that leads away"), line("absolute name")),
        ("twophase/rundir", "names may be hidden", ' or name.startswith(".")', "", line("hidden name")),
        ("twophase/rundir", "names may have NUL in them", " or not name.isprintable()", "", line("name with NUL")),
        ("twophase/rundir", "runs of any format are gone on with", "if found != FORMAT:", "if False:", line("run of a newer version")),
        ("twophase/rundir", "a config that was changed is taken", "if seal != sha256(configs.dump(run.config)):", "if False:", line("run whose config was changed")),
        ("twophase/sweep", "a sweep that was changed is taken", 'if sha256(sweep._text()) != found["sha256"]:', "if False:", line("record of a sweep changed")),
        ("twophase/rundir", "checksums of checkpoints are not checked", 'if about.pop("sha256") != _digest(path.name, about, tensors):', 'if not about.pop("sha256"):', line("flipped checkpoint")),
        ("twophase/rundir", "a checkpoint's name is not under its checksum", 'digest(tensors, f"{name} {json.dumps(about)}', 'digest(tensors, f"{json.dumps(about)}', line("checkpoint of another step")),
        ("twophase/rundir", "what is said of a checkpoint is not under its checksum", 'f"{name} {json.dumps(about)}', 'f"{name}', EDITED),
        ("twophase/digests", "names of tensors are not under the checksum", 'f"{name} {t.dtype}', 'f"{t.dtype}', f"{BELONGS}::test_bytes_out_of_order_have_the_digest_of_those_in_order"),
        ("twophase/digests", "shapes of tensors are not under the checksum", "{t.dtype} {tuple(t.shape)}", "{t.dtype}", EDITED),
        ("twophase/digests", "numbers are not under the checksum", "found.update(part.cpu()", "found.copy().update(part.cpu()", EDITED),
        ("twophase/rundir", "checkpoints of another seed are taken", 'if about["seed"] != self.config.seed:', "if False:", f"{RUNDIR}::test_a_checkpoint_of_a_run_with_another_seed_is_refused"),
        ("twophase/rundir", "checksums of records are not checked", 'if found["sha256"] != _record_digest(path, found["value"]):', "if False:", RECORDS),
        ("twophase/rundir", "a record's name is not under its checksum", 'sha256(f"{path.name} {json.dumps(value', 'sha256(f"{json.dumps(value', RECORDS),
        ("twophase/rundir", "checksums of tables are not checked", "if self._checksum(name).read_text() !=", "if None is", RECORDS),
        ("twophase/rundir", "a table's name is not beside its checksum", 'if self._checksum(name).read_text() != f"{sha256(text)}  {name}.csv\\n":', "if self._checksum(name).read_text()[:64] != sha256(text):", RECORDS),
        # data and states of others
        ("twophase/sources", "archives may unpack to anything", "if part.file_size > max(SMALL, RATIO * part.compress_size):", "if False:", call("decompression bomb")),
        ("twophase/sources", "arrays may be larger than they are", "if math.prod(shape) * dtype.itemsize > part.file_size:", "if False:", call("shape bomb")),
        ("twophase/sources", "archives may hold pickles", "allow_pickle=False", "allow_pickle=True", call("objects")),
        ("twophase/sources", "an archive may be a pipe", "if not path.is_file():  # a pipe would block\n", "if False:\n", call("a pipe")),
        ("twophase/sources", "classes may be any number", "if array.size and array.max() >= MOST_CLASSES:", "if False:", call("huge label")),
        ("twophase/recorder", "checkpoints may run code", "weights_only=True", "weights_only=False", call("a checkpoint that runs code")),
        ("twophase/recorder", "a checkpoint may be a pipe", "if not path.is_file():  # a pipe would block\n", "if False:\n", call("a checkpoint that is a pipe")),
        ("twophase/config", "configs may have any size", "if size > LARGEST or not path.is_file():", "if not path.is_file():", line("TOML of a huge size")),
        ("twophase/kernels", "kernels of another run are taken", 'if set(differs) - OF_A_STEP:', "if False:", call("a kernel of another run")),
        # pages
        ("twophase/report", "names are markup on pages", "autoescape=True", "autoescape=False", f"{NAMES}::test_the_report_shows_them_as_text"),
        ("twophase/plotstyle", "names are formulas in drawings", '.replace("$", r"\\$")', "", f"{NAMES}::test_drawings_are_xml_with_them_as_text"),
        ("twophase/plotstyle", "drawings have signs that XML has not", "c if c.isprintable() else", "c if c else", f"{NAMES}::test_drawings_are_xml_with_them_as_text"),
        # going on with training
        ("twophase/train", "the momentum of a state is dropped", 'optimizer.state[p]["momentum_buffer"] = momentum', "pass", resumed("mlp"), resumed("vit")),
        ("twophase/train", "the momentum is not saved", 'state[f"momentum.{name}"] = buffer.to("cpu", copy=True)', "pass", resumed("mlp")),
        ("twophase/train", "buffers are not loaded", "model.load_state_dict(weights(state))", "model.load_state_dict({k: v for k, v in weights(state).items() if 'running' not in k}, strict=False)", resumed("thin-resnet"), resumed("dropout")),
        ("twophase/train", "the order of the data begins anew", "loss = step_loss(model, config, data, step)", "loss = step_loss(model, config, data, step - start)", resumed("mlp")),
        ("twophase/train", "the rate is that of the first step", "rate = config.rate(arm, step) * rate_factor", "rate = config.rate(arm, start) * rate_factor", f"{RESUME}::test_stopped_at_any_step_it_ends_the_same[mlp-15]"),
        ("twophase/train", "masks hang on what was drawn before", 'torch.manual_seed(seeds.number(config.seed, "dropout", step))', "pass", resumed("dropout")),
        ("twophase/train", "masks are those of another step", 'seeds.number(config.seed, "dropout", step)', 'seeds.number(config.seed, "dropout")', f"{TRAIN}::test_dropout_masks_belong_to_the_step"),
        ("twophase/train", "a checkpoint that is missing is passed over", "if s < missing and file.exists())", "if file.exists())", "tests/twophase/test_stages.py::test_a_file_that_is_lost_comes_back_the_same"),
        ("twophase/underway", "a job goes on from another step", "at = mark\n", "at = start\n", killed("off-late"), killed("off-twin")),
        ("twophase/underway", "a job goes on from its first state", "states = self._load(file, len(states))", "pass", killed("off-late"), killed("off-twin")),
        ("twophase/underway", "states of several trainings have one name", 'f"{label}-{step:06d}.safetensors"', 'f"{step:06d}.safetensors"', killed("off-twin")),
        ("twophase/underway", "lanes change places", "states[int(lane)][name] = value", "states[-1 - int(lane)][name] = value", killed("on-twins")),
        ("twophase/underway", "states of a job stay", "        remove_folder(self.folder)", "        pass", f"{UNDERWAY}::test_states_of_a_job_that_is_done_are_gone"),
        # several processes
        ("entk/peers", "silence never counts as lost", "if beats < FINISHED and silent > (LOST_SECONDS if beats else START_SECONDS):", "if False:", "tests/entk/test_lost_ranks.py::test_when_one_rank_is_lost_the_others_end[1-9-rank 1 stopped giving signs of life]"),
        ("entk/peers", "ranks with other requests go on", "if differs and verdict is None:", "if False:", f"{DISTRIBUTED}::test_errors_are_told_to_all_and_the_group_goes_on"),
        ("entk/write", "requests of ranks are not compared", 'peers.agree(request | machine(like) | asked | {"rates": rates})', "pass", f"{DISTRIBUTED}::test_errors_are_told_to_all_and_the_group_goes_on"),
        ("entk/write", "machines of ranks are not compared", "peers.agree(request | machine(like) |", "peers.agree(request |", f"{DISTRIBUTED}::test_errors_are_told_to_all_and_the_group_goes_on"),
        ("entk/peers", "an error is not told", 'self._ask(lambda s: s.compare_set("failed", "", text), limit)', "pass", f"{DISTRIBUTED}::test_errors_are_told_to_all_and_the_group_goes_on"),
        ("entk/distribute", "finished tiles are computed again", "if tile not in done:", "if True:", "tests/entk/test_distribute.py::test_each_missing_tile_has_one_rank_and_no_rank_too_many"),
        ("entk/distribute", "a tile that moves is lost", "        tiles += surplus[:room]\n", "        pass\n", "tests/entk/test_distribute.py::test_each_missing_tile_has_one_rank_and_no_rank_too_many"),
    )
)  # fmt: skip
