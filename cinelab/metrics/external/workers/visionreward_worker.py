"""Asks a video-language model yes/no questions about clips, under the python of VisionReward's own
environment.

job     model, the checkpoint's folder; clips, a list of {frames, an .npy of uint8 (F, H, W, 3);
        questions, a list}; backend, optional "module:function": `function(job)` returns another
        `answer(frames, question) -> str`
answer  answers, a list of texts a clip; errors {number of the clip: sentence}; versions, device
"""

import importlib
import importlib.metadata
import traceback

import numpy as np
from plumbing import report_line, run_worker_job

# with one candidate they change nothing; the checkpoint's code wants them given
TEMPERATURE = 0.1
TOP_P = 0.1
PAD = 128002  # the padding token of the Llama 3 that the model is built on


def answer_questions(job: dict) -> dict:
    """Every question of every clip; a clip that fails costs the others nothing."""
    answer = _backend(job["backend"])(job) if job.get("backend") else load_model(job)
    answers = []
    errors = {}
    for number, clip in enumerate(job["clips"]):
        report_line(f"clip {number + 1} of {len(job['clips'])}, {len(clip['questions'])} questions")
        try:
            frames = np.load(clip["frames"])
            answers.append([str(answer(frames, question)) for question in clip["questions"]])
        except Exception as error:
            traceback.print_exc()
            answers.append([])
            errors[str(number)] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return {"answers": answers, "errors": errors, "versions": _versions("torch", "transformers")}


def load_model(job: dict):
    """The model of the checkpoint's folder on the GPU, as `answer(frames, question)`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not torch.cuda.is_available():
        raise RuntimeError("VisionReward needs a CUDA device, and this python's torch sees none")
    kind = torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
    local = {"trust_remote_code": True, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(job["model"], **local)
    model = (
        AutoModelForCausalLM.from_pretrained(job["model"], torch_dtype=kind, **local)
        .eval()
        .to("cuda")
    )

    def answer(frames: np.ndarray, question: str) -> str:
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)  # (3, F, H, W)
        inputs = model.build_conversation_input_ids(
            tokenizer=tokenizer, query=question, images=[video], history=[], template_version="chat"
        )
        given = {
            name: inputs[name].unsqueeze(0).to("cuda")
            for name in ("input_ids", "token_type_ids", "attention_mask")
        }
        images = [[inputs["images"][0].to("cuda").to(kind)]]
        with torch.no_grad():
            tokens = model.generate(
                **given,
                images=images,
                max_new_tokens=1,
                do_sample=False,
                top_k=1,
                top_p=TOP_P,
                temperature=TEMPERATURE,
                pad_token_id=PAD,
            )
        # the first new word is the answer
        return str(tokenizer.decode(tokens[0, given["input_ids"].shape[1]]))

    return answer


def _backend(name: str):
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _versions(*names: str) -> dict:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


if __name__ == "__main__":
    run_worker_job(answer_questions)
