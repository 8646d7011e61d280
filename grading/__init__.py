"""Student versions of the homeworks and a grader that never trusts what it grades."""
