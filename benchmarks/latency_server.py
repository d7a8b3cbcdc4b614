"""An endpoint of chat completions that takes an exact time for a reply and works on so many requests at once.

A request gets the place that is free first, holds it for the latency, and is answered then; a request that finds every
place taken waits for one. Places are booked by the clock and not by when the answer was written, so the server answers
places / latency requests a second, never more, however busy the machine is, as long as requests are waiting.

    python benchmarks/latency_server.py --latency 0.05 --places 20

prints one JSON line with the port it listens on, and serves till its standard input is closed. GET /stats tells what it
has done since it started.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import heapq
import json
import sys
import time
from typing import Any

MODEL = "bench"
END_OF_HEADERS = b"\r\n\r\n"
CONTENT_LENGTH = b"content-length:"
CHARACTERS_A_TOKEN = 4
WORDS_A_POST = 56
"""Words of a post: about as long as the teachers' posts are."""
WORDS = ("plain", "bright", "quiet", "early", "fresh", "ready", "small", "steady", "warm", "simple", "clever", "honest")


class Places:
    """When each place is free again."""

    def __init__(self, count: int, latency: float) -> None:
        self.latency = latency
        self._free_at = [0.0] * count

    def book(self, now: float) -> float:
        """Takes the place that is free first; when its request is done."""
        done_at = max(now, self._free_at[0]) + self.latency
        heapq.heapreplace(self._free_at, done_at)
        return done_at


class Counts:
    """What the server has done: how many requests and rows, and which prompts, whatever their order."""

    def __init__(self) -> None:
        self.requests = self.answered = self.refused = self.waiting = self.most_waiting = 0
        self.first_at = self.last_at = 0.0
        self._prompts: set[int] = set()

    def came(self, prompt: bytes, now: float) -> None:
        """A request with this digest of its prompt came."""
        self.first_at = self.first_at or now
        self.requests += 1
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        self._prompts.add(int.from_bytes(prompt[:8]))

    def left(self, now: float) -> None:
        """A request was answered."""
        self.last_at = now
        self.answered += 1
        self.waiting -= 1

    @property
    def facts(self) -> dict[str, Any]:
        """The counts; two clients that sent the same prompts have the same `prompts_digest`."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "refused": self.refused,
            "most_waiting": self.most_waiting,
            "distinct_prompts": len(self._prompts),
            "prompts_digest": f"{sum(self._prompts) % 2**64:016x}",
            "seconds": round(self.last_at - self.first_at, 3),
            "cpu_seconds": round(time.process_time(), 3),
        }


class Endpoint(asyncio.Protocol):
    """One connection: reads requests with a Content-Length, answers each when its place is done with it."""

    def __init__(self, places: Places, counts: Counts) -> None:
        self.places, self.counts = places, counts
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way back to the client."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Takes in bytes and answers the requests that are whole."""
        self.buffer += data
        while True:
            end = self.buffer.find(END_OF_HEADERS)
            if end < 0:
                return
            head, start = self.buffer[:end], end + len(END_OF_HEADERS)
            stop = start + length_of(head)
            if len(self.buffer) < stop:
                return
            body, self.buffer = self.buffer[start:stop], self.buffer[stop:]
            self._take(head.split(b" ", 2)[:2], body)

    def _take(self, line: list[bytes], body: bytes) -> None:
        if line == [b"GET", b"/stats"]:
            self._write(b"200 OK", json.dumps(self.counts.facts).encode())
        elif not line[1].endswith(b"/chat/completions"):
            self._write(b"404 Not Found", b'{"error": {"message": "no such page", "type": "invalid_request_error"}}')
        elif messages := json.loads(body).get("messages"):
            self._answer_later(messages[-1]["content"])
        else:
            self.counts.refused += 1
            self._write(b"400 Bad Request", b'{"error": {"message": "no messages", "type": "invalid_request_error"}}')

    def _answer_later(self, prompt: str) -> None:
        digest = hashlib.sha256(prompt.encode()).digest()
        now = self.loop.time()
        self.counts.came(digest, now)
        self.loop.call_at(self.places.book(now), self._answer, completion(prompt, digest))

    def _answer(self, body: bytes) -> None:
        self.counts.left(self.loop.time())
        self._write(b"200 OK", body)

    def _write(self, status: bytes, body: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )


def length_of(head: bytes) -> int:
    """The length of the body that a request's headers announce."""
    lower = head.lower()
    at = lower.find(CONTENT_LENGTH)
    return 0 if at < 0 else int(lower[at + len(CONTENT_LENGTH) :].split(b"\r\n", 1)[0])


def post_of(digest: bytes) -> str:
    """A post that no other prompt gets: the digest in hex, after words that the digest picks."""
    picked = [WORDS[byte % len(WORDS)] for byte in digest * (WORDS_A_POST // len(digest) + 1)][:WORDS_A_POST]
    return f"Meet your next favourite! It is {' '.join(picked)}. Order number {digest.hex()[:24]} today. #new"


def completion(prompt: str, digest: bytes) -> bytes:
    """The body of a reply."""
    post = post_of(digest)
    asked, written = len(prompt) // CHARACTERS_A_TOKEN, len(post) // CHARACTERS_A_TOKEN
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": post}}
    body = {
        "id": digest.hex()[:16],
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
        "usage": {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written},
    }
    return json.dumps(body).encode()


async def serve(latency: float, places: int) -> None:
    """Serves on a free port of the loopback interface till standard input is closed."""
    loop, booked, counts = asyncio.get_running_loop(), Places(places, latency), Counts()
    server = await loop.create_server(lambda: Endpoint(booked, counts), "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    closed = asyncio.Event()
    # Whoever started the server writes nothing, so there is something to read only at the end.
    loop.add_reader(sys.stdin, closed.set)
    await closed.wait()


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, required=True, help="seconds that a reply takes")
    parser.add_argument("--places", type=int, required=True, help="requests worked on at once")
    options = parser.parse_args()
    asyncio.run(serve(options.latency, options.places))


if __name__ == "__main__":
    main()
