"""``python -m domicile.router``: how a router starts its workers, whatever its own program is called."""

from domicile.router.main import app

app()
