"""The stages of a run, one module each; ``distillkit.pipeline`` puts them in a row."""
