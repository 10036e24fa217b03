"""Runs VBench on a folder of videos, under the python of VBench's own environment.

job     mode "custom_input", "vbench_standard" or "long_custom_input"; videos, a folder;
        dimensions {name: [its files]}; prompts {file: prompt}; cache, the weights' folder;
        scratch, an empty folder; long_home, a clone for VBench-Long
answer  results {dimension: {average, videos {file name: value}}}, errors {dimension: sentence},
        versions, device

The caller has checked that every weight file is there: VBench would go and fetch a missing one.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path

from plumbing import report_line, run_worker_job


def measure_dimensions(job: dict) -> dict:
    """Every dimension by itself, so that one that fails costs the others nothing."""
    _settle(job)
    torch, kept = _import_torchvision()
    import transformers
    import vbench

    named = os.environ.get("CINELAB_DEVICE", "auto")  # as in cinelab.devices, which is not here
    there = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(there if named in ("", "auto") else named)
    results = {}
    errors = {}
    for dimension, files in job["dimensions"].items():
        report_line(f"{dimension} of {len(files)} clips on {device}")
        try:
            results[dimension] = _evaluate(
                job, dimension, _only(job, files), device, Path(vbench.__file__).parent
            )
        except Exception as error:
            traceback.print_exc()
            errors[dimension] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    versions = {
        "vbench": importlib.metadata.version("vbench"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {
        "results": results,
        "errors": errors,
        "versions": versions,
        "device": str(device),
        "stubbed": kept is not None,
    }


def _settle(job: dict) -> None:
    """Everything that is read at import: where the weights are, that hubs stay unasked, that old
    pickles may be loaded."""
    scratch = Path(job["scratch"])
    dino = Path(job["cache"]) / "dino_model" / "dino_vitbase16_pretrain.pth"
    # DINO's own entry point ignores the path it is handed and looks where torch.hub downloads to.
    checkpoints = scratch / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    if dino.exists():
        (checkpoints / dino.name).symlink_to(dino.resolve())
    os.environ |= {
        "VBENCH_CACHE_DIR": job["cache"],
        "TORCH_HOME": str(scratch / "torch"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }


def _import_torchvision():
    """torch, and the library that stands in for torchvision's operators where its build does not
    fit a CPU torch."""
    import torch

    try:
        import torchvision  # noqa: F401

        return torch, None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # lives as long as somebody holds it
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

    return torch, library


def _only(job: dict, files: list) -> Path:
    """A folder of links to these files alone: VBench measures whatever it finds. The same files
    share one folder."""
    name = hashlib.blake2b("/".join(sorted(files)).encode(), digest_size=8).hexdigest()
    folder = Path(job["scratch"]) / "videos" / name
    if not folder.exists():
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).symlink_to((Path(job["videos"]) / file).resolve())
    return folder


def _evaluate(job: dict, dimension: str, folder: Path, device, package: Path) -> dict:
    """One dimension on a folder; VBench returns nothing, its numbers are in a file."""
    out = Path(job["scratch"]) / "out"
    name = f"{job['mode']}-{dimension}"
    listing = str(package / "VBench_full_info.json")
    options = {
        "dimension_list": [dimension],
        "local": True,
        "mode": job["mode"],
        "imaging_quality_preprocessing_mode": "longer",
    }
    if job["mode"] == "long_custom_input":
        bench, more = _long(job, device, listing, str(out))
        bench.evaluate(str(folder), name, **options, **more)
    else:
        from vbench import VBench

        custom = job["mode"] == "custom_input"
        prompts = (
            {file.name: job["prompts"][file.name] for file in folder.iterdir()} if custom else []
        )
        VBench(device, listing, str(out)).evaluate(
            str(folder), name, prompt_list=prompts, **options
        )
    found = json.loads((out / f"{name}_eval_results.json").read_text(encoding="utf-8"))[dimension]
    # The average stands first and the values a video last, however many tables lie between.
    values = {
        Path(one["video_path"]).name: one["video_results"]
        for one in found[-1]
        if "video_path" in one
    }
    return {"average": found[0], "videos": values}


def _long(job: dict, device, listing: str, out: str):
    """VBench-Long from its clone, on top of the installed vbench, with the settings its own script
    has by default."""
    home = Path(job["long_home"]) / "vbench2_beta_long"
    _give_write_video()
    if "vbench2_beta_long" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "vbench2_beta_long", home / "__init__.py", submodule_search_locations=[str(home)]
        )
        assert spec and spec.loader  # a file's spec has a loader
        module = sys.modules["vbench2_beta_long"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    bench = sys.modules["vbench2_beta_long"].VBenchLong(device, listing, out)
    configs = home / "configs"
    return bench, {
        "clip_length_config": "clip_length_mix.yaml",
        "use_semantic_splitting": False,
        "static_filter_flag": False,
        "sb_clip2clip_feat_extractor": "dino",
        "bg_clip2clip_feat_extractor": "clip",
        "w_inclip": 1.0,
        "w_clip2clip": 0.0,
        "dev_flag": False,
        "num_of_samples_per_prompt": 5,
        "slow_fast_eval_config": str(configs / "slow_fast_params.yaml"),
        "sb_mapping_file_path": str(configs / "subject_mapping_table.yaml"),
        "bg_mapping_file_path": str(configs / "background_mapping_table.yaml"),
    }


def _give_write_video() -> None:
    """VBench-Long writes its two-second pieces with a function that newer torchvisions have not."""
    import torchvision.io

    if not hasattr(torchvision.io, "write_video"):
        torchvision.io.write_video = _write_video


def _write_video(path: str, frames, fps) -> None:
    """frames (F, H, W, 3), values 0..255: H.264 at qp 0, so that only the rounding to yuv444p
    differs."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=round(fps), options={"qp": "0", "preset": "ultrafast"}
        )
        stream.height = int(frames.shape[1])
        stream.width = int(frames.shape[2])
        stream.pix_fmt = "yuv444p"
        for pixels in np.asarray(frames).astype(np.uint8):
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                )
            )
        container.mux(stream.encode(None))


if __name__ == "__main__":
    run_worker_job(measure_dimensions)
