"""The commands of ``portico``: one module each, with ``add_arguments`` and ``run``."""
