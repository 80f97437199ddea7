"""Runs MiniStack, and says what it is at work on.

    watched_ministack.py PORT

MiniStack runs functions, retries them and polls queues in threads of its own, and
has no API that reports on them. A test that asserts that nothing more happens
needs to know. So PORT answers every request with one line for each busy thread; an
empty answer means that nothing is running and nothing is waiting to be retried.

Busy threads are recognised by their stacks; MiniStack itself is not modified.
"""

import http.server
import sys
import threading

from ministack.app import main


def is_idle(function):
    """Whether a thread that sleeps in this function waits for nothing of ours:
    those that live as long as MiniStack does, and the one that has a function
    look changed for half a second."""
    name = function.rpartition(".")[2]
    return name.endswith(("_loop", "_reaper")) or name == "_flip"


def at_work():
    for frame in sys._current_frames().values():
        services = []
        while frame:
            if "/ministack/services/" in frame.f_code.co_filename:
                services.append(frame.f_code.co_qualname)
            frame = frame.f_back
        # The innermost one first.
        if services and not is_idle(services[0]):
            yield " < ".join(services)


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = "\n".join(at_work()).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", int(sys.argv.pop(1))), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
main()
