"""The consumers of the channels; plain HTTP goes to Django's views by default."""

from channels.routing import route
from rooms import consumers

SOCKET_PATH = r"^/rooms/(?P<slug>[-a-z0-9]+)/socket/$"

channel_routing = [
    route("websocket.connect", consumers.connect, path=SOCKET_PATH),
    route("websocket.receive", consumers.receive, path=SOCKET_PATH),
    route("websocket.disconnect", consumers.disconnect, path=SOCKET_PATH),
    route("websocket.connect", consumers.refuse),
]
