"""The trivial predictors that every table prints beside ours."""
