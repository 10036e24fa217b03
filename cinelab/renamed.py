"""What modules and public names of version 0.1 are called now.

    import cinelab.model.zoo                    works, and warns: it is cinelab.zoo.checkpoints now
    python -m cinelab.train.worker              works
    from cinelab.lab.desk import desk           works, and warns: it has moved
    from cinelab.memory.cache import Memory     ImportError: it is called KVCache now

A name whose interface has changed along with it is never an alias, since calls would fail later and
say less. `install` puts a finder before Python's own, which costs one look-up in a table an import.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, spec_from_loader
from types import CodeType, ModuleType

ROOT = "cinelab."
# modules, below `cinelab`: old -> new
MODULES = {
    "cli_eval": "cli.evaluation",
    "cli_options": "cli.options",
    "cli_wan": "cli.weights",
    "lab.ablation": "lab.studies.memory_cell",
    "lab.cards": "lab.reports.cards",
    "lab.catalogue": "lab.reports.toybox_figures",
    "lab.claims": "lab.studies.initialisation_study",
    "lab.cluster": "lab.sweeps.cluster",
    "lab.demo": "lab.desk.demo",
    "lab.doors": "lab.desk.access",
    "lab.evaluation": "lab.studies.evaluation",
    "lab.executed": "lab.reports.pages",
    "lab.films": "lab.studies.film_cell",
    "lab.grid": "lab.sweeps.grid",
    "lab.house": "lab.desk.hosting",
    "lab.initialisation": "lab.studies.initialisation_cell",
    "lab.injectivity": "lab.studies.injectivity",
    "lab.inspector": "lab.desk.inspector",
    "lab.kernel": "lab.desk.kernel",
    "lab.launch": "lab.training.launch",
    "lab.made": "lab.reports.origin",
    "lab.measured": "lab.sweeps.measured",
    "lab.messages": "lab.desk.messages",
    "lab.monitor": "lab.training.monitor",
    "lab.notebook": "lab.sweeps.notebook",
    "lab.panel": "lab.training.panel",
    "lab.paper": "lab.reports.paper",
    "lab.plots": "lab.reports.plots",
    "lab.pooling": "lab.reports.sweep_table",
    "lab.post": "lab.desk.frame_channel",
    "lab.recall": "lab.studies.memory_study",
    "lab.reference": "lab.reports.reference",
    "lab.rehearsal": "lab.desk.unattended",
    "lab.report": "lab.reports.report",
    "lab.report_figures": "lab.reports.report_figures",
    "lab.results": "lab.reports.index",
    "lab.routing_page": "lab.reports.routing_page",
    "lab.samples": "lab.training.samples",
    "lab.stages": "lab.training.stages",
    "lab.students": "lab.training.students",
    "lab.sweep": "lab.sweeps.sweep",
    "lab.sweep_board": "lab.sweeps.progress_table",
    "lab.sweep_cell": "lab.sweeps.cell",
    "lab.sweep_server": "lab.sweeps.server",
    "lab.tasks": "lab.studies.tasks",
    "lab.templates": "lab.reports.templates",
    "lab.verdicts": "lab.reports.verdicts",
    "lab.video_data": "lab.training.video_data",
    "lab.viewers": "lab.desk.viewers",
    "lab.withdrawn": "lab.reports.withdrawn",
    "memory.shelf": "memory.store",
    "memory.sight": "memory.context",
    "model.attention": "ops.attention",
    "model.convert": "weights.convert",
    "model.fast": "scale.acceleration",
    "model.footprint": "zoo.footprint",
    "model.layouts": "weights.layouts",
    "model.lora": "weights.lora",
    "model.rope": "ops.rope",
    "model.sources": "weights.sources",
    "model.wan_zoo": "zoo.wan",
    "model.weights": "weights.load",
    "model.zoo": "zoo.checkpoints",
    "score": "metrics",
    "score.card": "metrics.card",
    "score.cuts": "metrics.video.cuts",
    "score.evaluate": "metrics.video.evaluate",
    "score.exam": "metrics.toybox.validation",
    "score.excerpts": "metrics.external.clip_files",
    "score.features": "metrics.video.features",
    "score.film": "metrics.toybox.film",
    "score.footage": "metrics.video.clips",
    "score.judges": "metrics.video.alignment",
    "score.metrics": "metrics.metric",
    "score.outside": "metrics.external.environments",
    "score.pictures": "metrics.video.appearance",
    "score.recogniser": "metrics.toybox.recogniser",
    "score.retrieval": "metrics.toybox.retrieval",
    "score.rows": "metrics.rows",
    "score.shots": "metrics.video.pixels",
    "score.speed": "bench.speed",
    "score.stats": "metrics.stats",
    "score.toybox": "metrics.toybox.attributes",
    "score.vbench": "metrics.external.vbench",
    "score.vbench_files": "metrics.external.vbench_files",
    "score.vbench_suite": "metrics.external.vbench_suite",
    "score.visionreward": "metrics.external.visionreward",
    "score.wan_options": "bench.wan_options",
    "score.wan_speed": "bench.wan_speed",
    "score.workers": "metrics.external.workers",
    "score.workers.plumbing": "metrics.external.workers.plumbing",
    "score.workers.vbench_worker": "metrics.external.workers.vbench_worker",
    "score.workers.visionreward_worker": "metrics.external.workers.visionreward_worker",
    "stream.attended": "stream.attention_shares",
    "stream.board": "stream.film_tree",
    "stream.engine": "stream.batch",
    "stream.follow": "stream.session_from_film",
    "stream.from_film": "stream.session_from_film",
    "stream.kept": "stream.resume",
    "stream.live": "stream.live_engine",
    "stream.looked": "stream.attention_shares",
    "stream.reel": "stream.generator",
    "stream.showing": "stream.display",
    "stream.tree": "stream.film_tree",
    "train.arithmetic": "scale.cost",
    "train.checkpoint": "scale.checkpoints",
    "train.job": "jobs.job",
    "train.lora": "scale.adapters",
    "train.memory": "train.trained_policy",
    "train.parallel": "scale.parallel",
    "train.sequence": "scale.sequence",
    "train.worker": "jobs.worker",
    "world.actors": "world.toybox1.actors",
    "world.casting": "world.toybox1.casting",
    "world.draw": "world.toybox1.draw",
    "world.render": "world.toybox1.render",
    "world.sets": "world.toybox1.sets",
    "world.vocab": "world.toybox1.vocab",
}
# public names: module as it is called now -> old name -> new name, in another module where dotted
NAMES: dict[str, dict[str, str]] = {
    "bench.speed": {
        "compare": "compare_speeds",
        "run": "time_chunks",
        "summary": "summarise_timings",
    },
    "bench.wan_speed": {
        "beside": "overlap_rates",
        "decoded": "decode_seconds",
        "filled": "random_history",
        "measure": "measure_chunks",
    },
    "cli": {
        "app": "cli.commands.app",
    },
    "config": {
        "described": "to_kind",
        "names_of": "field_names",
    },
    "data.build": {
        "Progress": "BuildProgress",
    },
    "data.cutting": {
        "takes": "find_shots",
    },
    "data.layout": {
        "Piece": "ShotClip",
        "Take": "VideoShot",
        "pictures_in": "frames_in",
    },
    "cli.options": {
        "names_of": "comma_names",
        "number": "number_option",
        "size_of": "frame_size",
    },
    "cli.weights": {
        "next_line": "cli.train.next_line",
    },
    "data.listing": {
        "Reel": "ListedVideo",
        "Source": "FilmSource",
        "find": "list_films",
    },
    "data.planning": {
        "Planned": "FilmLayout",
        "digest": "value_digest",
        "plan": "plan_films",
    },
    "data.reader": {
        "Player": "ClipReader",
        "Video": "VideoReader",
    },
    "flow.path": {
        "spread": "expand_t",
    },
    "flow.sampler": {
        "Chunk": "flow.rollout.Chunk",
        "Prompts": "flow.condition.Condition",
        "Script": "flow.rollout.ChunkRequest",
        "ab2": "flow.solvers.ab2",
        "denoise": "flow.rollout.denoise",
        "euler": "flow.solvers.euler",
        "noise_for": "flow.rollout.noise_for",
        "refine": "flow.solvers.consistency_sampling",
        "remember": "flow.rollout.append_chunk",
        "remember_and_denoise": "scale.fused.append_and_denoise",
        "rollout": "flow.rollout.rollout",
        "solve": "flow.solvers.solve",
        "steps_of": "flow.solvers.steps_of",
        "walk": "flow.solvers.trajectory",
    },
    "lab.desk": {
        "Desk": "lab.desk.widget.DeskWidget",
        "desk": "lab.desk.widget.desk",
        "open_session": "lab.desk.widget.open_or_create_session",
    },
    "lab.desk.access": {
        "Doors": "AllowedHosts",
        "Keys": "Tokens",
        "token_given": "chosen_token",
    },
    "lab.desk.demo": {
        "House": "lab.desk.hosting.FilmHost",
        "Rules": "lab.desk.hosting.DemoLimits",
    },
    "lab.desk.frame_channel": {
        "Post": "FrameChannel",
    },
    "lab.desk.hosting": {
        "House": "FilmHost",
        "Rules": "DemoLimits",
        "Visit": "HostedDesk",
    },
    "lab.desk.kernel": {
        "Kernel": "KernelActivity",
    },
    "lab.desk.messages": {
        "Drawn": "FramesDrawn",
        "Unread": "InvalidMessage",
        "parse": "parse_message",
        "read": "read_message",
    },
    "lab.desk.viewers": {
        "news": "view_changes",
    },
    "lab.desk.widget": {
        "Desk": "DeskWidget",
        "about": "lab.desk.view.desk_facts",
        "open_session": "open_or_create_session",
    },
    "lab.inputs": {
        "a_judge": "a_backend",
    },
    "lab.plain_notebook": {
        "plain": "stripped_notebook",
    },
    "lab.reports.index": {
        "column_table": "lab.reports.query.column_table",
        "csv_text": "lab.reports.number_text.csv_text",
        "interval": "lab.reports.number_text.interval",
        "overview": "lab.reports.query.overview",
        "query": "lab.reports.query.query",
        "rounded": "lab.reports.number_text.rounded_text",
        "save": "lab.reports.query.save_answer",
        "telling": "lab.reports.query.telling",
        "text_of": "lab.reports.number_text.text_of",
        "wide": "lab.reports.query.wide",
    },
    "lab.reports.paper": {
        "Drawn": "PaperFigure",
        "beside": "name_levels",
        "texts": "drawn_texts",
    },
    "lab.reports.plots": {
        "routing_by_shot": "lab.reports.routing_plots.routing_by_shot",
        "routing_map": "lab.reports.routing_plots.routing_map",
    },
    "lab.reports.report": {
        "maker_of": "lab.reports.report_origin.maker_of",
        "render": "render_report",
        "run_text": "lab.reports.report_origin.run_text",
        "spread": "wide_table",
        "summary": "summary_line",
    },
    "lab.reports.report_figures": {
        "front": "lab.reports.cost_figures.front",
        "pareto_figure": "lab.reports.cost_figures.pareto_figure",
        "said": "lab.reports.panels.settings_in_words",
    },
    "lab.reports.sweep_table": {
        "load_cells": "lab.reports.sweep_cells.load_cells",
        "shown": "setting_text",
    },
    "lab.reports.templates": {
        "filled": "filled_template",
    },
    "lab.reports.withdrawn": {
        "protocol_of": "edition_of",
    },
    "lab.studies.evaluation": {
        "marks": "per_shot_figure",
    },
    "lab.studies.film_cell": {
        "pixel_tables": "compared_pixel_rows",
        "summarise": "film_summary",
    },
    "lab.studies.initialisation_cell": {
        "HISTORIES": "lab.studies.initialisation_starts.HISTORIES",
        "INITS": "lab.studies.initialisation_starts.INITS",
        "check_changes": "lab.studies.initialisation_starts.check_changes",
        "equal_seconds": "lab.studies.initialisation_starts.equal_seconds",
        "taken_turns": "lab.studies.initialisation_starts.taken_turns",
        "TEACHERS": "lab.studies.teachers.SHIPPED",
        "clips_of": "film_clips",
        "judge": "measure_student",
        "teacher_marks": "teacher_rows",
    },
    "lab.studies.initialisation_study": {
        "init_cells": "lab.studies.initialisation_costs.init_cells",
        "init_costs": "lab.studies.initialisation_costs.init_costs",
        "init_turns": "lab.studies.initialisation_costs.init_turns",
        "difference": "paired_gap",
        "estimate": "nested_estimate",
    },
    "lab.studies.injectivity": {
        "with_students": "lab.studies.injectivity_students.with_students",
        "blur_figure": "lab.studies.injectivity_figures.blur_figure",
        "error_figure": "lab.studies.injectivity_figures.error_figure",
        "measure": "measure_cases",
        "sensitivity_figure": "lab.studies.injectivity_figures.sensitivity_figure",
        "summary": "injectivity_table",
        "variance_figure": "lab.studies.injectivity_figures.variance_figure",
    },
    "lab.studies.memory_cell": {
        "Cell": "MemoryCell",
        "routing_picture": "routing_figure",
    },
    "lab.studies.memory_study": {
        "keep_rows": "keep_raw_rows",
    },
    "lab.studies.tasks": {
        "answer": "answer_tasks",
    },
    "latent.checkpoint": {
        "rounded": "as_dtype",
    },
    "latent.store": {
        "build": "data.toybox.build_toybox",
        "film_arrays": "data.toybox.film_arrays",
        "prompts_per_film": "data.toybox.prompts_per_film",
    },
    "latent.taehv": {
        "walk": "run_layers",
    },
    "limits": {
        "cut": "truncated",
        "spoken": "number_text",
    },
    "lab.sweeps.cell": {
        "answer": "run_cell",
    },
    "lab.sweeps.cluster": {
        "settings": "submitit_parameters",
    },
    "lab.sweeps.grid": {
        "Cell": "SweepCell",
        "load": "load_sweep",
        "plain": "json_value",
    },
    "lab.sweeps.measured": {
        "checked": "checked_rows",
    },
    "lab.sweeps.notebook": {
        "check": "check_parameters",
        "first_line": "plain_first_line",
    },
    "lab.sweeps.progress_table": {
        "Board": "ProgressTable",
    },
    "lab.sweeps.server": {
        "Here": "LocalServer",
    },
    "lab.sweeps.sweep": {
        "Summary": "SweepSummary",
    },
    "lab.training.panel": {
        "Bar": "lab.training.progress_bar.ProgressBar",
        "Due": "Throttle",
        "Figure": "lab.training.cell_output.LiveFigure",
        "Pace": "lab.training.progress_bar.Pace",
        "Place": "lab.training.cell_output.CellOutput",
    },
    "lab.training.video_data": {
        "film_store": "encode_videos",
    },
    "memory.cache": {
        "Memory": "KVCache",
    },
    "memory.context": {
        "Bidirectional": "BidirectionalContext",
        "Causal": "CausalContext",
        "TeacherForcing": "TeacherForcingContext",
        "bias": "ops.tiling.token_bias",
        "gather": "ops.tensors.gather_pages",
        "repeat_to": "ops.tensors.repeat_batch",
        "sight_by_lot": "sample_history_policy",
    },
    "memory.policy": {
        "BUILT_IN": "memory.policy_registry.BUILT_IN",
        "POLICIES": "memory.policy_registry.POLICIES",
        "budget_of": "memory.policy_registry.budget_of",
        "label_of": "memory.policy_registry.label_of",
        "name_of": "memory.policy_registry.name_of",
        "policy_dict": "memory.policy_registry.policy_dict",
        "policy_from": "memory.policy_registry.policy_from",
        "policy_named": "memory.policy_registry.policy_named",
        "seeded": "memory.policy_registry.seeded",
        "tried": "memory.policy_registry.checked_policy",
        "with_budget": "memory.policy_registry.with_budget",
        "keep_only": "sinks_and_window",
        "kept": "sinks_and_window",
    },
    "memory.routing": {
        "lot": "memory.policy.RandomTopK",
    },
    "memory.store": {
        "HostShelf": "scale.host_kv.HostKVStore",
        "Kept": "KVStore",
        "PackedShelf": "scale.quantized_kv.QuantizedKVStore",
        "Shelf": "DeviceKVStore",
        "Slots": "scale.host_kv.PagePool",
        "pack": "scale.quantized_kv.quantize",
        "to_host": "scale.host_kv.HostMemory",
        "unpack": "scale.quantized_kv.dequantize",
    },
    "metrics.card": {
        "measure": "measure_card",
    },
    "metrics.external.clip_files": {
        "Clip": "ShotFile",
        "Video": "FilmFile",
        "cut": "cut_out_spans",
        "find_videos": "find_film_files",
        "in_pictures": "spans_as_shown",
        "measure": "frames_and_rate",
    },
    "metrics.external.environments": {
        "find": "find_tool",
    },
    "metrics.external.vbench": {
        "Rules": "ClipRules",
        "Video": "metrics.external.clip_files.FilmFile",
        "file_name": "prompt_file_name",
        "score_videos": "vbench_rows",
        "setting": "measured_with",
    },
    "metrics.external.vbench_files": {
        "waiting": "waiting_for",
    },
    "metrics.external.vbench_suite": {
        "Job": "SuiteFilm",
        "score_suite": "suite_rows",
    },
    "metrics.external.visionreward": {
        "Setting": "RewardModel",
        "preflight": "preflight_reward",
        "score_videos": "visionreward_rows",
    },
    "metrics.metric": {
        "clip_rows": "metrics.registered.registered_clip_rows",
        "compared_rows": "metrics.registered.compared_rows",
        "listed": "metrics.registered.listed",
        "own_rows": "metrics.registered.registered_rows",
        "rehearse": "metrics.registered.try_registered",
        "told": "unit_and_direction",
        "values": "metrics.registered.values",
    },
    "metrics.rows": {
        "load": "load_rows",
        "save": "save_rows",
        "table": "row_table",
    },
    "metrics.toybox.attributes": {
        "cut_rows": "planned_cut_rows",
        "drift_rows": "prompt_drift_rows",
        "table": "metrics.rows.row_table",
    },
    "metrics.toybox.film": {
        "asked_rows": "shown_rows",
        "cut_rows": "metrics.video.pixels.accuracy_rows",
        "digest": "film_digest",
        "film_scores": "film_values",
        "kept_rows": "returning_rows",
        "plain_scores": "plain_values",
    },
    "metrics.toybox.validation": {
        "Exam": "Validator",
        "ExamConfig": "ValidationConfig",
        "film_marks": "made_rows",
        "frame_marks": "frame_rows",
    },
    "metrics.video.alignment": {
        "judge_rows": "alignment_rows",
        "recall_rows": "recalled_rows",
    },
    "metrics.video.appearance": {
        "picture_rows": "appearance_rows",
    },
    "metrics.video.clips": {
        "label_of": "clip_label",
        "placed": "plan_as_shown",
    },
    "metrics.video.cuts": {
        "change": "frame_change",
    },
    "metrics.video.evaluate": {
        "digest": "clip_digest",
    },
    "metrics.video.features": {
        "prepare": "prepare_images",
    },
    "model.wan": {
        "Sight": "ops.attention.AttentionContext",
        "attend": "ops.attention.AttentionContext",
        "kept_dtype": "parameter_dtype",
    },
    "outputs": {
        "claim": "claim_folder",
    },
    "progress": {
        "about": "duration_text",
    },
    "readable": {
        "brief": "brief_text",
    },
    "scale.acceleration": {
        "hasten": "accelerate",
    },
    "scale.adapters": {
        "begin": "initial_adapters",
        "mark": "fingerprint_of",
        "marks": "fingerprints_of",
        "plain": "plain_name",
    },
    "scale.checkpoints": {
        "pour": "load_tensors",
    },
    "scale.cost": {
        "pairs": "chunk_products",
        "table": "cost_table",
    },
    "script.screenplay": {
        "MAX_SECONDS": "script.fields.MAX_SECONDS",
        "MAX_SHOTS": "script.fields.MAX_SHOTS",
        "MAX_TEXT": "script.fields.MAX_TEXT",
        "size_of": "screenplay_size",
    },
    "script.shotlist": {
        "beside": "shot_list_path",
    },
    "script.timeline": {
        "told": "change_text",
    },
    "script.umt5": {
        "clean": "clean_prompt",
        "short": "shorten_prompt",
    },
    "seeds": {
        "parted": "fork_rng",
    },
    "stream.attention_shares": {
        "attention": "attention_shares",
        "looked": "shots_retrieved",
    },
    "stream.batch": {
        "empty_memory": "empty_cache",
        "Timed": "TimedChunk",
        "quick": "inference_mode",
        "script_of": "prompts_and_shots",
    },
    "stream.commands": {
        "Desk": "DeskState",
        "asked": "screenplay_settings",
        "checked": "checked_settings",
        "news": "changed_settings",
        "setting": "setting_command",
    },
    "stream.director": {
        "asks_of": "requests_of",
        "turned": "apply_change",
        "untaken": "require_new_folder",
    },
    "stream.export": {
        "at_rest": "snapshot",
        "export": "export_film",
    },
    "stream.film_tree": {
        "Board": "FilmTree",
        "change": "describe_change",
        "pictures": "node_frames",
    },
    "stream.generator": {
        "Ask": "ChunkRequest",
        "Reel": "ChunkGenerator",
        "State": "FilmState",
    },
    "stream.live_engine": {
        "Bounds": "stream.readout.FilmBounds",
        "Live": "LiveEngine",
        "Shown": "stream.readout.LiveChunk",
        "Turns": "stream.fair_lock.FairLock",
        "give_back_memory": "trim_heap",
    },
    "stream.overlap": {
        "ahead": "prefetch",
        "memory_said": "explain_oom",
        "settled": "synchronize",
    },
    "stream.reader": {
        "Film": "stream.decoded_video.DecodedVideo",
        "Video": "VideoReader",
        "constant_rate": "stream.decoded_video.constant_rate",
        "finest_rate": "stream.decoded_video.finest_rate",
        "nominal": "stream.decoded_video.nominal",
        "pick": "stream.decoded_video.pick",
        "shown_at": "stream.decoded_video.shown_at",
        "turned": "display_rotation",
    },
    "stream.session": {
        "Command": "stream.session_entries.CommandEntry",
        "Made": "stream.session_entries.ChunkEntry",
    },
    "stream.session_from_film": {
        "follow": "session_from_screenplay",
        "follow_run": "session_from_run",
        "session_from_film": "session_from_screenplay",
    },
    "stream.storyboard": {
        "Layout": "StoryboardLayout",
    },
    "stream.video": {
        "read_picture": "read_image",
    },
    "stream.whatif": {
        "difference": "mean_difference",
    },
    "texts": {
        "decoded": "decode_text",
        "line_of": "yaml_line",
    },
    "threads": {
        "prepare": "set_threads",
        "shared": "shared_cores",
        "waiting": "wait_policy",
    },
    "runs": {
        "whole_part": "states.whole_part",
    },
    "train.bidirectional": {
        "clip_length": "draw_clip_length",
    },
    "train.codec": {
        "pool": "render_clips",
    },
    "train.dmd": {
        "clip_requests": "train.self_rollout.clip_requests",
        "direction": "dmd_gradient",
        "score": "score_velocity",
    },
    "train.levels": {
        "drawn": "draw_levels",
    },
    "train.loop": {
        "Exam": "Validator",
    },
    "train.ode": {
        "jump": "predicted_end",
    },
    "train.optim": {
        "descend": "train.loop.optimization_step",
        "follow": "train.loop.optimization_step",
    },
    "train.pairs": {
        "build": "integrate_pairs",
        "field_of": "teacher_velocity",
    },
    "weights.convert": {
        "convert": "convert_weights",
        "plan": "plan_conversion",
    },
    "weights.sources": {
        "Source": "WeightSource",
        "Opened": "weights.tensor_files.Opened",
        "broken": "weights.tensor_files.broken",
        "first_line": "weights.tensor_files.first_line_of",
        "kind_of": "weights.tensor_files.file_kind",
    },
    "world.toybox1.actors": {
        "box": "actor_box",
    },
    "world.toybox1.casting": {
        "caption_of_film": "world.worlds.World",
        "film": "cast_film",
        "plan_timeline": "world.plans.plan_timeline",
        "timeline_of": "world.plans.plan_timeline",
    },
    "world.toybox1.draw": {
        "dimmed": "world.toybox2.drawing.dimmed",
        "tint": "world.toybox2.drawing.tint",
    },
    "world.toybox1.vocab": {
        "read": "read_prompt",
        "words": "world.wording.words",
    },
    "train.presets": {
        "wan": "train.sizes.wan_presets",
    },
    "train.recogniser": {
        "Clips": "LabelledShots",
        "Soil": "Degradation",
        "measure": "measure_accuracy",
        "pool": "labelled_shots",
        "shot": "world.worlds.World",
        "shots": "rendered",
        "soiled": "degraded",
        "through": "reconstructed",
    },
    "train.teacher_forcing": {
        "sight_at": "history_at",
    },
    "zoo.checkpoints": {
        "SHELF": "SHIPPED",
        "check_reach": "zoo.bundle.check_max_distance",
        "filled": "load_weights",
        "save": "save_checkpoint",
    },
    "zoo.footprint": {
        "Film": "FilmSpec",
        "check_fits": "check_memory",
        "check_weights": "check_weight_memory",
    },
}
# moved names that take other arguments now, and are therefore no aliases
CHANGED = {
    "flow.sampler": ("Chunk", "denoise", "noise_for", "rollout"),
    "lab.studies.initialisation_cell": ("taken_turns",),
}


class Alias:
    """Loads a module of version 0.1 as the module that has taken its place."""

    def __init__(self, old: str, new: str):
        self.old = old
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the new module itself: there is one module under both names."""
        warnings.warn(f"{self.old} is {self.new} now.", FutureWarning, stacklevel=2)
        module = import_module(self.new)
        self.own_spec = module.__spec__  # the import system is about to replace it
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own_spec

    def load_module(self, name: str) -> ModuleType:
        """Return the new module, for callers of the import system's older interface."""
        return import_module(self.new)

    def get_code(self, name: str) -> CodeType | None:
        """Return the new module's code, for `python -m` with the old name."""
        print(f"{self.old} is {self.new} now.", file=sys.stderr)
        spec = find_spec(self.new)
        found = spec.loader if spec else None
        return found.get_code(self.new) if isinstance(found, SourceFileLoader) else None


class Finder:
    """Finds the modules of `MODULES`, and gives those of `NAMES` a `__getattr__`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a renamed module; None leaves the name to Python's own finders."""
        if not name.startswith(ROOT):
            return None
        short = name.removeprefix(ROOT)
        if short in MODULES:
            new = ROOT + MODULES[short]
            spec = find_spec(new)
            return spec_from_loader(name, Alias(name, new), origin=spec.origin if spec else None)
        if short.rpartition(".")[0] in MODULES:  # or a module would be loaded a second time
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return _with_old_names(name, short, path, target) if short in NAMES else None


def _with_old_names(
    name: str, short: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    """Return a module's own spec, whose loader adds `__getattr__` once the module has run."""
    spec = PathFinder.find_spec(name, path, target)
    if spec is None or spec.loader is None:
        return spec
    run = spec.loader.exec_module

    def exec_module(module: ModuleType) -> None:
        run(module)
        module.__dict__.setdefault("__getattr__", lambda old: _old_name(short, old))

    spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # of this module alone
    return spec


def _old_name(module: str, old: str) -> object:
    """Answer for a name that a module does not have."""
    new = NAMES[module].get(old)
    if new is None:
        raise AttributeError(f"module {ROOT + module!r} has no attribute {old!r}")
    home, _, leaf = new.rpartition(".")
    if leaf != old:
        raise ImportError(f"{ROOT}{module}.{old} is called {ROOT + new if home else new} now.")
    if old in CHANGED.get(module, ()):
        raise ImportError(f"{ROOT}{module}.{old} is {ROOT}{new} now, with other arguments.")
    warnings.warn(f"{ROOT}{module}.{old} is {ROOT}{new} now.", FutureWarning, stacklevel=3)
    return getattr(import_module(ROOT + home), leaf)


def install() -> None:
    """Let the old names be found from now on."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
