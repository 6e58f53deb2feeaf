"""Settings of the chat site.

Settings that differ between machines come from the environment:

==================  ====================================================================  ==================
Variable            Meaning                                                               Default
==================  ====================================================================  ==================
CHAT_LAYER          the channel layer: ``memory``, ``inmemory`` or ``redis``              ``memory``
CHAT_REDIS          address of Redis, for ``CHAT_LAYER=redis``                            redis://127.0.0.1:6379/0
CHAT_DATABASE       path of the SQLite database                                           ``chat.sqlite3`` here
CHAT_MEDIA          directory of the uploaded files                                       ``media`` here
CHAT_DEBUG          ``0`` turns Django's debug mode off                                   ``1``
CHAT_SECRET_KEY     Django's secret key; required when CHAT_DEBUG is ``0``                a public one
CHAT_HOSTS          host names the site answers to, separated by commas                   loopback names
CHAT_TRUST_PROXY    ``1``: requests are HTTPS when the X-Forwarded-Proto field says so    ``0``
==================  ====================================================================  ==================
"""

import os

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

DEBUG = os.environ.get("CHAT_DEBUG", "1") != "0"
SECRET_KEY = os.environ.get("CHAT_SECRET_KEY", "not a secret: for the demonstration only" if DEBUG else "")
ALLOWED_HOSTS = os.environ.get("CHAT_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "greendaphne",
    "channels",
    "rooms",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "chat.urls"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.debug",
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

_DATABASE = os.environ.get("CHAT_DATABASE", os.path.join(BASE_DIR, "chat.sqlite3"))
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _DATABASE,
        # Several workers write: wait for the lock instead of failing at once.
        "OPTIONS": {"timeout": 20},
        # On disk, because tests may start servers in other processes.
        "TEST": {"NAME": os.path.join(os.path.dirname(_DATABASE), "test-chat.sqlite3")},
    }
}

_REDIS = os.environ.get("CHAT_REDIS", "redis://127.0.0.1:6379/0")
_LAYERS = {
    # Within one process: `greendaphne --inline-workers` and `manage.py runserver`.
    "memory": {"BACKEND": "greendaphne.layers.memory.MemoryChannelLayer"},
    # The reference implementation of an in-memory layer, for comparison.
    "inmemory": {"BACKEND": "asgiref.inmemory.ChannelLayer", "CONFIG": {"capacity": 100}},
    # Between processes and machines: `greendaphne` here, `manage.py runworker` there.
    "redis": {
        "BACKEND": "greendaphne.layers.redis.RedisChannelLayer",
        "CONFIG": {"hosts": [_REDIS]},
        # For tests that start a server in another process.
        "TEST_CONFIG": {"hosts": [_REDIS], "prefix": "test:"},
    },
}
try:
    _LAYER = _LAYERS[os.environ.get("CHAT_LAYER", "memory")]
except KeyError as error:
    raise ImproperlyConfigured(f"CHAT_LAYER must be one of {', '.join(_LAYERS)}, not {error}") from None

CHANNEL_LAYERS = {"default": {**_LAYER, "ROUTING": "chat.routing.channel_routing"}}

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = os.path.join(BASE_DIR, "static")
MEDIA_ROOT = os.environ.get("CHAT_MEDIA", os.path.join(BASE_DIR, "media"))

LOGIN_REDIRECT_URL = "rooms:index"
LOGOUT_REDIRECT_URL = "rooms:index"

#: The largest accepted upload, in bytes.
UPLOAD_LIMIT = 200 * 1024 * 1024

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_BROWSER_XSS_FILTER = True
X_FRAME_OPTIONS = "DENY"
if os.environ.get("CHAT_TRUST_PROXY", "0") == "1":
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
