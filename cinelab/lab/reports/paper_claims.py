"""The claims of the three papers, in our words: what each states, what would refute it, and what
here tests it.

A claim has looks, each a row of a table of claims in results/reference (its file, and the row's
text), or a reason why nothing here can test it. `cinelab.lab.reports.claims_page` makes the page.
"""

from dataclasses import dataclass

CAUSALCINE = "CausalCine"
CAUSAL_FORCING = "Causal Forcing"
PLUS = "Causal Forcing++"
PAPERS = {CAUSALCINE: "2605.12496", CAUSAL_FORCING: "2602.02214", PLUS: "2605.15141"}

MEMORY = "memory_claims.csv"
STARTS = "initialisation_claims.csv"
STEPS = "initialisation_steps_claims.csv"
FUTURE = "future_alone_claims.csv"
COURSE = "initialisation_updates_course.csv"
INJECTIVITY = "injectivity_claims.csv"
ROUTED = "causalcine_claims.csv"
FRAMING = "framing_claims.csv"
STUDENTS = "students_claims.csv"

NO_WEIGHTS = "no weights of the compared systems, and no GPU, are at hand"


@dataclass(frozen=True)
class Source:
    """Rows of a table of claims: its file in results/reference, and what their `claim` contains.
    `chance` and `upper` name a metric of the card that bounds them, where one does."""

    table: str
    contains: str
    bounds: str = ""


@dataclass(frozen=True)
class PaperClaim:
    """One claim: a name of its own, the paper and the place in it, what it states, what would
    refute it, and what tests it (`looks`) or why nothing does (`untested`)."""

    name: str
    paper: str
    where: str
    states: str
    refuted_by: str
    looks: tuple[Source, ...] = ()
    untested: str = ""


AT_FIVE = "identity (away=5)"
CLAIMS_OF_PAPERS = (
    PaperClaim(
        "routing-window",
        CAUSALCINE,
        "memory ablation",
        "Content-aware routing keeps a recurring character better than a window of the same size.",
        "a window that recalls as much after five shots away, trained as it is tested",
        (Source(ROUTED, "5 shots away: causalcine is ahead of window in identity", AT_FIVE),),
    ),
    PaperClaim(
        "routing-sink",
        CAUSALCINE,
        "memory ablation",
        "It keeps it better than a first-frame sink of the same size.",
        "a sink that recalls as much",
        (Source(MEMORY, "is ahead of sink", AT_FIVE),),
    ),
    PaperClaim(
        "routing-content",
        CAUSALCINE,
        "method, content-aware memory routing",
        "What is retrieved matters: content decides, not the number of retrieved frames.",
        "pages drawn at random that recall as much at the same budget",
        (
            Source(MEMORY, "is ahead of random", AT_FIVE),
            Source(ROUTED, "5 shots away: causalcine is ahead of random in identity", AT_FIVE),
        ),
    ),
    PaperClaim(
        "routing-bounded",
        CAUSALCINE,
        "method, bounded active memory",
        "A bounded active memory is as good as attending to the whole history.",
        "recall below 0.95 of full attention's, or outside 0.05 of it",
        (
            Source(MEMORY, "keeps 0.95 of full attention", AT_FIVE),
            Source(MEMORY, "is level with full attention", AT_FIVE),
        ),
    ),
    PaperClaim(
        "routing-packed",
        CAUSALCINE,
        "method, block-relative RoPE",
        "A base trained with packed positions retrieves as well as one with true distances.",
        "a base trained with each, of which the packed one recalls less",
        (Source(ROUTED, "5 shots away: ours is level with causalcine in identity", AT_FIVE),),
    ),
    PaperClaim(
        "adversarial-framing",
        CAUSALCINE,
        "third stage",
        "Without the adversarial head recurring subjects slide to the frame's edge.",
        "framing drift that is the same with and without the head",
        (
            Source(FRAMING, "without a head, framing drift grows"),
            Source(FRAMING, "the head (teacher) lowers framing drift"),
        ),
    ),
    PaperClaim(
        "student-quality",
        CAUSALCINE,
        "table of base and 4-step student",
        "A 4-step student keeps the base's prompt following and recall.",
        "a share of the base's below 0.95, on the same films",
        (
            Source(STUDENTS, "toybox-4step keeps 0.95 of the base's prompt", "prompt"),
            Source(STUDENTS, "toybox-4step keeps 0.95 of the base's identity", AT_FIVE),
        ),
    ),
    PaperClaim(
        "multi-shot-tuning",
        CAUSALCINE,
        "ablation of multi-shot tuning",
        "Without training on native multi-shot clips a model makes no cuts.",
        "a base trained on single shots that cuts as planned",
        untested="every base here is trained on films with cuts; a single-shot base has not been "
        "trained",
    ),
    PaperClaim(
        "state-limit",
        CAUSALCINE,
        "limitations",
        "The state of an object does not continue across cuts.",
        "states that continue",
        untested="nothing in the toybox changes its state for good",
    ),
    PaperClaim(
        "cut-accuracy",
        CAUSALCINE,
        "comparison with autoregressive systems",
        "It cuts on time far more often than the other autoregressive systems.",
        "another system's cuts that are as accurate",
        untested=NO_WEIGHTS,
    ),
    PaperClaim(
        "speed-cine",
        CAUSALCINE,
        "abstract",
        "It plays at 16 frames per second on eight H200.",
        "a slower run of the released system",
        untested=NO_WEIGHTS,
    ),
    PaperClaim(
        "injectivity",
        CAUSAL_FORCING,
        "section on frame-level injectivity",
        "Under a bidirectional teacher a frame's end point is no function of what a causal student "
        "is given, and that is a cause of its error.",
        "what the unseen decides being less than a tenth of the student's squared error",
        (Source(INJECTIVITY, "decides a tenth of the student's squared error"),),
    ),
    PaperClaim(
        "injectivity-blur",
        CAUSAL_FORCING,
        "section on frame-level injectivity",
        "Least squares then answers with a blurred mean.",
        "a mean end point that is 0.95 as sharp as the end points",
        (Source(INJECTIVITY, "the mean end point is blurred"),),
    ),
    PaperClaim(
        "causal-ode",
        CAUSAL_FORCING,
        "main comparison",
        "Causal ODE initialisation is ahead of Self Forcing's bidirectional one after DMD.",
        "the baseline, with its level a chunk, that is level or ahead",
        (
            Source(STARTS, "causal_ode is ahead of bidirectional_ode in prompt", "prompt"),
            Source(STARTS, "causal_ode is ahead of bidirectional_ode in identity"),
        ),
    ),
    PaperClaim(
        "causal-motion",
        CAUSAL_FORCING,
        "main comparison (dynamic degree)",
        "It moves more.",
        "motion of the baseline that is as large",
        (Source(STARTS, "causal_ode is ahead of bidirectional_ode in motion"),),
    ),
    PaperClaim(
        "future-alone",
        CAUSAL_FORCING,
        "argument for an autoregressive teacher",
        "The teacher's view of the future is the reason.",
        "a bidirectional teacher given the true past whose student is level",
        (
            Source(FUTURE, "causal_ode is ahead of bidirectional_true_past in prompt", "prompt"),
            Source(FUTURE, "causal_ode is ahead of bidirectional_true_past in identity"),
            Source(FUTURE, "causal_ode is ahead of bidirectional_true_past in sharpness"),
        ),
    ),
    PaperClaim(
        "motion-dies",
        CAUSAL_FORCING,
        "training details",
        "Motion dies where DMD goes on for long.",
        "as much motion at the last update as at the first",
        (Source(COURSE, "loses motion from"),),
    ),
    PaperClaim(
        "starts-matter",
        CAUSAL_FORCING,
        "ablation of initialisations",
        "The start still matters after DMD.",
        "starts that are level after 500 updates",
        (Source(COURSE, "is level with"),),
    ),
    PaperClaim(
        "forcing-kind",
        CAUSAL_FORCING,
        "stage 1",
        "Diffusion forcing is no better than teacher forcing.",
        "a base of diffusion forcing that is ahead",
        untested="stage 1 here is teacher forcing alone",
    ),
    PaperClaim(
        "vision-reward",
        CAUSAL_FORCING,
        "main comparison",
        "VisionReward and instruction following rise by 8.7 % and 16.7 %.",
        "no rise with the released weights",
        untested=NO_WEIGHTS,
    ),
    PaperClaim(
        "consistency-ode",
        PLUS,
        "ablation of initialisations",
        "Causal consistency distillation is a better start than causal ODE.",
        "causal ODE that is level or ahead, at equal clips or at equal seconds",
        (
            Source(STARTS, "is ahead of causal_ode in prompt", "prompt"),
            Source(STARTS, "is ahead of causal_ode in identity"),
            Source(STEPS, "1920 steps: consistency (equal clips) is ahead of causal_ode in prompt"),
            Source(
                STEPS, "1920 steps: consistency (equal seconds) is ahead of causal_ode in prompt"
            ),
        ),
    ),
    PaperClaim(
        "consistency-none",
        PLUS,
        "ablation of initialisations",
        "It is a better start than the autoregressive model itself, most at few levels.",
        "the base model that is level or ahead after DMD",
        (
            Source(STARTS, "consistency (equal clips) is ahead of none in prompt", "prompt"),
            Source(STARTS, "consistency (equal clips) is ahead of none in identity"),
        ),
    ),
    PaperClaim(
        "consistency-cost",
        PLUS,
        "cost of stage 2",
        "It costs about a quarter of causal ODE.",
        "causal ODE that takes less than three times its seconds at equal clips",
        (
            Source(STARTS, "times consistency's seconds"),
            Source(STEPS, "times consistency's seconds"),
        ),
    ),
    PaperClaim(
        "mode-covering",
        PLUS,
        "consistency against score distillation",
        "Consistency covers the modes where score distillation seeks them.",
        "a start by score distillation that is as varied",
        (Source(STARTS, "consistency (equal clips) is ahead of score in diversity of identity"),),
    ),
    PaperClaim(
        "two-step-frame-wise",
        PLUS,
        "main comparison",
        "A frame-wise 2-step student equals a chunk-wise 4-step one.",
        "the frame-wise student that is behind on the same films",
        untested="the chunk-wise base here is of a much shorter training, so the two do not differ "
        "by the chunk alone",
    ),
    PaperClaim(
        "first-frame",
        PLUS,
        "latency",
        "The first frame takes 0.27 s and 14.1 frames follow a second on one A800.",
        "a slower run of the released system",
        untested=NO_WEIGHTS,
    ),
    PaperClaim(
        "vbench",
        PLUS,
        "main comparison",
        "VBench's total is 84.14 against 84.04.",
        "totals that are apart by more than samples of one model are",
        untested="one public checkpoint of the papers is reported at 82.67, 84.04, 84.51 and "
        "84.96, so a tenth of a point ranks nothing",
    ),
    PaperClaim(
        "action-model",
        PLUS,
        "action-conditioned model",
        "The same stages distil a model that takes an action a chunk.",
        "a student that does not follow its actions",
        untested="actions and camera are words of the prompt here; a model of actions has not been "
        "trained",
    ),
)
