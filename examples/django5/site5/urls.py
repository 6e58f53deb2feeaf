"""A guest book, and a page that waits for several things at once."""

import asyncio
import time

from django.http import JsonResponse
from django.shortcuts import redirect, render
from django.urls import path

from .models import Entry


def index(request):
    if request.method == "POST":
        request.session["name"] = request.POST["name"]
        Entry.objects.create(name=request.POST["name"], text=request.POST["text"])
        return redirect("index")
    return render(request, "index.html", {"entries": Entry.objects.order_by("-id")[:20], "name": request.session.get("name", "")})


async def answer(number):
    await asyncio.sleep(0.2)
    return number * number


async def slow(request):
    start = time.monotonic()
    squares = await asyncio.gather(*(answer(number) for number in range(5)))
    count = await Entry.objects.acount()
    return JsonResponse({"squares": squares, "entries": count, "seconds": round(time.monotonic() - start, 2)})


urlpatterns = [path("", index, name="index"), path("slow", slow)]
