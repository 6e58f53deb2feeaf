"""The pages: rooms, uploads, and a page that is streamed line by line."""

import hashlib
import time

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import FileResponse, HttpResponseBadRequest, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from .forms import RoomForm, UploadForm
from .models import Room, Upload

#: The number of latest messages on a room's page.
HISTORY = 50
MAX_LINES = 1000
MAX_INTERVAL_MS = 5000


@require_safe
def index(request):
    return render(request, "rooms/index.html", {"rooms": Room.objects.all()})


@login_required
@require_safe
def room(request, slug):
    room = get_object_or_404(Room, slug=slug)
    latest = list(room.messages.select_related("user").order_by("-id")[:HISTORY])[::-1]
    return render(
        request,
        "rooms/room.html",
        {"room": room, "history": latest, "present": room.users_present(), "last_id": latest[-1].pk if latest else 0},
    )


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_room(request):
    form = RoomForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        room = form.save()
        messages.success(request, f"The room {room.name} is open.")
        return redirect("rooms:room", slug=room.slug)
    return render(request, "rooms/new_room.html", {"form": form})


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def uploads(request):
    form = UploadForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        file = form.cleaned_data["file"]
        digest = hashlib.sha256()
        for chunk in file.chunks():
            digest.update(chunk)
        # A large upload is in a temporary file by now; the storage moves it into place without another copy.
        upload = Upload.objects.create(user=request.user, name=file.name[:200], file=file, size=file.size, sha256=digest.hexdigest())
        if "application/json" in request.META.get("HTTP_ACCEPT", ""):
            return JsonResponse({"id": upload.pk, "name": upload.name, "size": upload.size, "sha256": upload.sha256}, status=201)
        messages.success(request, f"{upload.name} has arrived.")
        return redirect("rooms:uploads")
    context = {"form": form, "uploads": Upload.objects.filter(user=request.user)[:20]}
    return render(request, "rooms/uploads.html", context)


@login_required
@require_safe
def download(request, pk):
    upload = get_object_or_404(Upload, pk=pk, user=request.user)
    response = FileResponse(upload.file.open("rb"), as_attachment=True, filename=upload.name)
    response["Content-Length"] = upload.size
    return response


@require_safe
def stream(request):
    return render(request, "rooms/stream.html")


@never_cache
@require_safe
def lines(request):
    """``count`` lines of text, ``interval`` milliseconds apart; each is sent as soon as it is produced."""
    try:
        count = min(int(request.GET.get("count", "10")), MAX_LINES)
        interval = min(max(int(request.GET.get("interval", "500")), 0), MAX_INTERVAL_MS) / 1000
    except ValueError:
        return HttpResponseBadRequest("count and interval are whole numbers.\n", content_type="text/plain")

    def produce():
        for number in range(1, count + 1):
            if number > 1:
                time.sleep(interval)
            yield f"line {number} of {count}, made at {timezone.now().isoformat()}\n"

    return StreamingHttpResponse(produce(), content_type="text/plain; charset=utf-8")
