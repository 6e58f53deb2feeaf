"""The WSGI application: ``greendaphne --app-dir examples/django5 site5.wsgi``."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site5.settings")
application = get_wsgi_application()

# A site of one's own has migrations instead.
from django.core.management import call_command  # noqa: E402

call_command("migrate", run_syncdb=True, verbosity=0)
