"""Fixtures that more than one folder of tests needs; a folder's own conftest may put another in one's place."""

pytest_plugins = ["domicile_testing.two_cells"]
