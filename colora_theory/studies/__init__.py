"""A TOML file turned into cells: its schema, single entries overridden, files to start from.

May import the model and the registries of estimators and guarantees; nothing is computed or stored here.
"""
