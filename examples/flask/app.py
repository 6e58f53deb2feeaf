"""A Flask site: a page with a session, and a chat by Flask-SocketIO."""

import os

from flask import Flask, redirect, render_template, request, session, url_for
from flask_socketio import SocketIO, emit

app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY", "only for trying it out")
socketio = SocketIO(app, async_mode="gevent", cors_allowed_origins=[])

#: The last lines of the chat, for those who come later.
LINES = []


@app.route("/")
def index():
    return render_template("index.html", name=session.get("name", ""))


@app.post("/name")
def name():
    session["name"] = request.form["name"][:40]
    return redirect(url_for("index"))


@socketio.on("connect")
def connected():
    for line in LINES:
        emit("line", line)


@socketio.on("say")
def say(text):
    line = {"name": session.get("name") or "somebody", "text": str(text)[:1000]}
    LINES.append(line)
    del LINES[:-50]
    emit("line", line, broadcast=True)
