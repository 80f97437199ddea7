"""Runs MiniStack, and says what it is at work on.

    watched_ministack.py PORT

MiniStack runs functions, tries them again and takes events from queues in
threads of its own, and answers no question about them. A test that holds that
nothing more happens has to know. So PORT answers every request with a line for
each thread that has something to do; an empty answer: nothing goes on, and
nothing waits to be tried again.

The threads are told by their stacks, and nothing of MiniStack is changed.
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
