"""Attention between the patches of one map, for several patch sizes at once."""
