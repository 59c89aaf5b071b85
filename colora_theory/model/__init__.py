"""The multi-user model: problems, truths, data, metrics of an estimate, and the linear algebra that they share.

May import `errors` only, and within the room downward: checks, linalg, problem, dataset, truth, sampling, metrics.
A dataset knows no truth; whoever needs one imports `truth` itself.
"""
