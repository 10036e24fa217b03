"""VBench and VisionReward, each from an environment of its own."""
