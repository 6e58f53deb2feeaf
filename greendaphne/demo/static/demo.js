// Starts the four parts of the page.  Each is a module of its own and knows nothing of the others.

import { startChat } from "./chat.js";
import { startRequest } from "./request.js";
import { startStream } from "./stream.js";
import { startUpload } from "./upload.js";

document.documentElement.classList.add("js");
startRequest();
startStream();
startUpload();
startChat();
