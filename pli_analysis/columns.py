"""Names of table columns: one name per quantity, in every table."""

from __future__ import annotations

# The part of a model, and the step.
RUN = "run"
GROUP = "group"
SEED = "seed"
PART = "part"
PART_TYPE = "part_type"
LAYER = "layer"
INDEX = "index"
CHECKPOINT = "checkpoint"
STEP = "step"
AGE = "age"
TOKENS = "tokens"
FLOPS = "flops"
SECONDS = "seconds"
DONOR = "donor"
INITIALIZER = "initializer"

# Growth events and births.
EVENT = "event"
EVENT_NUMBER = "event_number"
IS_EVENT = "is_event"
OPERATOR = "operator"
STACK = "stack"
NEW_SIZE = "new_size"
BIRTH_STEP = "birth_step"
IS_BIRTH = "is_birth"
HEADS = "heads"
FFN_UNITS = "ffn_units"
CONFIDENCE = "confidence"
START_STEP = "start_step"
END_STEP = "end_step"
START = "start"
END = "end"
HEIGHT = "height"

# Lineages inferred from weights.
MATCHED_INDEX = "matched_index"
DISTANCE = "distance"
RUNNER_UP_DISTANCE = "runner_up_distance"
DONOR_CONFIDENCE = "donor_confidence"

# Drift.
RELATIVE_L2 = "relative_l2"
COSINE_DISTANCE = "cosine_distance"
IS_ABSOLUTE = "is_absolute"
RMS_CHANGE = "rms_change"
PATH_LENGTH = "path_length"
GROWTH_PATH_LENGTH = "growth_path_length"
PATH_EFFICIENCY = "path_efficiency"
RELATIVE_UPDATE_RATE = "relative_update_rate"
DONOR_DISTANCE = "donor_distance"
QK_DISTANCE = "qk_distance"
OV_DISTANCE = "ov_distance"
RELATIVE_SPECTRAL_NORM = "relative_spectral_norm"
STABLE_RANK = "stable_rank"
EFFECTIVE_RANK = "effective_rank"

# Gradient norms.
GRAD_NORM = "grad_norm"
UPDATE_RATIO = "update_ratio"
GRAD_NORM_BEFORE = "grad_norm_before"
GRAD_NORM_AFTER = "grad_norm_after"
GRAD_NORM_RATIO = "grad_norm_ratio"
MEASUREMENTS = "measurements"

# Similarity of layer pairs, `a` and `b`: see `of_side`.
RUN_A, LAYER_A, CHECKPOINT_A, STEP_A, INDEX_A = "run_a", "layer_a", "checkpoint_a", "step_a", "index_a"
RUN_B, LAYER_B, CHECKPOINT_B, STEP_B, INDEX_B = "run_b", "layer_b", "checkpoint_b", "step_b", "index_b"
CKA = "cka"
PROCRUSTES = "procrustes"
NEIGHBORS = "neighbors"
SEQUENCES = "sequences"
COMPARED_TOKENS = "compared_tokens"
COSINE_SIMILARITY = "cosine_similarity"
MATRICES = "matrices"

# Ablation of parts.
ABLATION = "ablation"
IS_INSERTED = "is_inserted"
HEAD_IMPORTANCE = "head_importance"
RELATIVE_IMPORTANCE = "relative_importance"
BLOCK_INFLUENCE = "block_influence"
ORDER = "order"
DRAW = "draw"
HEADS_MASKED = "heads_masked"
SHARE_MASKED = "share_masked"
ORIGIN = "origin"
MASKED_HEADS = "masked_heads"
PRUNABLE_SHARE = "prunable_share"

# Lenses.
LENS = "lens"
AGREEMENT = "agreement"
DECIDED = "decided"
PREDICTED_TOKENS = "predicted_tokens"

# Attention of heads.
ENTROPY = "entropy"
RELATIVE_ENTROPY = "relative_entropy"
ATTENTION_DISTANCE = "attention_distance"
PREVIOUS = "previous"
SELF = "self"
NEXT = "next"
FIRST = "first"
TOP = "top"
SPECIAL = "special"
PATTERN = "pattern"
DONOR_DIVERGENCE = "donor_divergence"

# Neurons: units of FFNs.
UNIT = "unit"
MEAN_ACTIVATION = "mean_activation"
ACTIVE_SHARE = "active_share"
KURTOSIS = "kurtosis"
DONOR_CORRELATION = "donor_correlation"
CONTROL_CORRELATION = "control_correlation"
DONOR_OVERLAP = "donor_overlap"
ACTIVATION = "activation"
POSITION = "position"
TOKEN = "token"
TEXT_BEFORE = "text_before"
TEXT_AFTER = "text_after"
MEDIAN = "median"
LOWER_QUARTILE = "lower_quartile"
UPPER_QUARTILE = "upper_quartile"

# Direct logit attribution.
CONTRIBUTION = "contribution"
CONTRIBUTION_LOW = "contribution_low"
CONTRIBUTION_HIGH = "contribution_high"
SHARE = "share"

# Conductance of layers.
CONDUCTANCE = "conductance"
COMPLETENESS_ERROR = "completeness_error"
INTEGRATION_STEPS = "integration_steps"
INFIDELITY = "infidelity"
RELATIVE_INFIDELITY = "relative_infidelity"
SENSITIVITY = "sensitivity"

# Influence of training blocks.
CHECKPOINTS = "checkpoints"
BLOCK = "block"
DOCUMENT = "document"
TRAINED_STEP = "trained_step"
INFLUENCE = "influence"
EXCERPT = "excerpt"

# Linear probes.
LABEL = "label"
ACCURACY = "accuracy"
ACCURACY_LOW = "accuracy_low"
ACCURACY_HIGH = "accuracy_high"
MAJORITY = "majority"
SELECTIVITY = "selectivity"
GAIN = "gain"
GAIN_LOW = "gain_low"
GAIN_HIGH = "gain_high"
CODE_LENGTH = "code_length"
CLASSES = "classes"
MEASURED_TOKENS = "measured_tokens"
UNITS = "units"

# Inserted layers against matched layers.
MEASURE = "measure"
INSERTED = "inserted"
MATCHED = "matched"
P_ADJUSTED = "p_adjusted"
CLIFFS_DELTA = "cliffs_delta"
CLIFFS_DELTA_LOW = "cliffs_delta_low"
CLIFFS_DELTA_HIGH = "cliffs_delta_high"
MARGIN = "margin"
P_EQUIVALENCE = "p_equivalence"

# Loss, and effects of growth events on it.
SPLIT = "split"
LOSS = "loss"
LOSS_BEFORE = "loss_before"
LOSS_AFTER = "loss_after"
LOSS_CHANGE = "loss_change"
LOSS_CHANGE_LOW = "loss_change_low"
LOSS_CHANGE_HIGH = "loss_change_high"
KL = "kl"
FLIPS = "flips"
BLOCKS = "blocks"
DOCUMENTS = "documents"
WINDOW = "window"
REFERENCE = "reference"
SPIKE = "spike"
RECOVERY_STEPS = "recovery_steps"
IS_RECOVERED = "is_recovered"
EXCESS_AREA = "excess_area"
LATE_EXCESS = "late_excess"
NOISE = "noise"
PLACEBO_WINDOW = "placebo_window"
LR_PHASE = "lr_phase"
SPIKE_Z = "spike_z"
SPIKE_P = "spike_p"
EXCESS_AREA_P = "excess_area_p"
PLACEBOS = "placebos"
MIN_P = "min_p"
STEPS_SINCE = "steps_since"
EXCESS_LOSS = "excess_loss"
SMOOTHED_EXCESS_LOSS = "smoothed_excess_loss"

# Effects of growth events on layers.
LAYERS_FROM_EVENT = "layers_from_event"
OUTPUT_CHANGE = "output_change"
CKA_DISTANCE = "cka_distance"
LOG_GRAD_NORM_RATIO = "log_grad_norm_ratio"
GRAD_COSINE_DISTANCE = "grad_cosine_distance"
UPDATE_RATE_BEFORE = "relative_update_rate_before"
UPDATE_RATE_AFTER = "relative_update_rate_after"
EXCESS_LOG_UPDATE_RATE = "excess_log_update_rate"
EXCESS_LOG_GRAD_NORM = "excess_log_grad_norm"
SCORE = "score"
P = "p"

# Maps.
WALK = "walk"
X = "x"
Y = "y"

# Comparison of runs.
AXIS = "axis"
AT = "at"
RUNS = "runs"
SPENT = "spent"
FULL_SIZE = "full_size"
DEPTH = "depth"
LOSS_LOW = "loss_low"
LOSS_HIGH = "loss_high"
DIFFERENCE = "difference"
DIFFERENCE_LOW = "difference_low"
DIFFERENCE_HIGH = "difference_high"
PAIRING = "pairing"
PAIRS = "pairs"
LOSS_LEVEL = "loss_level"
REACHED = "reached"
SPEED_UP = "speed_up"
SPEED_UP_LOW = "speed_up_low"
SPEED_UP_HIGH = "speed_up_high"

# Studies: search over growth strategies.
ARM = "arm"
NUMBER = "number"
STATE = "state"
STEPS = "steps"
PARENT = "parent"
OF_ARM = "of_arm"
OF_TRIAL = "of_trial"
PRUNED_AT = "pruned_at"
PRUNED_SHARE = "pruned_share"
PRUNED_LOSS = "pruned_loss"
RIVALS = "rivals"
RANK = "rank"
ERROR = "error"
TRIALS = "trials"
COMPLETE = "complete"
PRUNED = "pruned"
FAILED = "failed"
RUNNING = "running"
BEST_TRIAL = "best_trial"
BEST_VALUE = "best_value"
WALL_SECONDS = "wall_seconds"
UNCOUNTED = "uncounted"
PARAMETER = "parameter"
IMPORTANCE = "importance"
MEAN = "mean"
MEAN_LOW = "mean_low"
MEAN_HIGH = "mean_high"

# Scalars.
TAG = "tag"
WALL_TIME = "wall_time"
VALUE = "value"


def of_side(column: str, side: str) -> str:
    """Return the name of a column for one of the two layers of a pair.

    >>> of_side(LAYER, "a")
    'layer_a'
    """
    return f"{column}_{side}"


def z_of(column: str) -> str:
    """Return the name of the column with the robust z of another column.

    >>> z_of(OUTPUT_CHANGE)
    'output_change_z'
    """
    return f"{column}_z"


def of_method(column: str, method: str) -> str:
    """Return the name of a coordinate column of a further map method, such as `x_tsne`."""
    return f"{column}_{method}"
