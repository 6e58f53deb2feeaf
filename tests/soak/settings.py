"""Django's settings of the site for workers of Channels.

``SOAK_BACKEND`` is the class of the channel layer, by default this project's; ``SOAK_REDIS`` is the URL of its Redis.
"""

from __future__ import annotations

import os

SECRET_KEY = "not a secret"
# Channels finds daphne in greendaphne.
INSTALLED_APPS = ["greendaphne", "channels"]
TIME_ZONE = "UTC"
ROOT_URLCONF = "tests.soak.routing"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": os.environ.get("SOAK_BACKEND", "greendaphne.layers.redis.RedisChannelLayer"),
        "CONFIG": {"hosts": [os.environ["SOAK_REDIS"]], "capacity": 1000},
        "ROUTING": "tests.soak.routing.channel_routing",
    }
}
