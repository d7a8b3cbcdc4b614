"""A chat-completions server in a process of its own, which fails in the ways that a test scripts.

`python -m tests.helpers.chat_server PORT` prints the port that it took (0: any), and ends when its standard input does.
It serves the protocol under the paths of both SDKs, answers a prompt with a text that follows from the prompt alone,
bills every request that it answered, and logs all requests. Clients of the server do not belong here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.helpers.children import command, environment

MODELS = ("served-model", "other-model")
SERVED = MODELS[0]
BYTES_A_TOKEN = 4
_POSTS = re.compile(r"<<<([0-9a-f]{16}) A>>>\n(.*?)\n<<<\1 end>>>\n\n<<<\1 B>>>\n(.*?)\n<<<\1 end>>>", re.DOTALL)


class Rule(NamedTuple):
    """What the server does to a request. The rule applies to the requests with these numbers (from 1) whose prompt
    contains the marker, at most `times` times.

    `act`: `drop` and `reset` end the connection, `hang` never answers, `truncate` announces more than it sends,
    `trickle` sends a byte every 0.01 s. `{authorization}` in a text, body or header is the header that the client sent.
    `to`: requests for a `chat`, or for the list of `models`. `quote`: how a verdict quotes the posts first (`QUOTES`).
    `encoding`: of the body; Latin-1 for any bytes.
    """

    numbers: tuple[int, ...] = ()
    marker: str = ""
    times: int | None = None
    status: int = 200
    headers: Mapping[str, str] | None = None
    body: str | None = None
    text: str | None = None
    finish_reason: str = "stop"
    model: str | None = None
    usage: Any = "counted"
    bytes_a_token: int = BYTES_A_TOKEN
    to: str = "chat"
    delay: float = 0.0
    act: str = ""
    quote: str = ""
    encoding: str = "utf-8"


class Seen(NamedTuple):
    """A request that the server received; times are of the monotonic clock, which all processes share."""

    number: int
    at: float
    ended_at: float
    path: str
    prompt: str
    body: dict[str, Any]
    authorization: str
    status: int
    is_answered: bool
    prompt_tokens: int
    completion_tokens: int


class Log(NamedTuple):
    """Every chat request in order of arrival, and the highest number in flight at one time."""

    requests: list[Seen]
    most_in_flight: int

    @property
    def prompts(self) -> list[str]:
        """The prompt of each request."""
        return [seen.prompt for seen in self.requests]

    @property
    def asked_again(self) -> int:
        """Requests beyond the first of each prompt."""
        return len(self.requests) - len(set(self.prompts))

    def bill(self, input_price: float, output_price: float) -> float:
        """Dollars of all requests, answered or not, at prices per million tokens."""
        return sum(s.prompt_tokens * input_price + s.completion_tokens * output_price for s in self.requests) / 1e6


_LENGTH = re.compile(r"Length: \w+, (\d+)")
QUOTES = ("escaped", "unescaped", "lines", "pretty")


def reply_text(prompt: str, quote: str = "") -> str:
    """The server's answer: a verdict for the longer of two fenced posts; to any other prompt, a post.

    The post has the smallest number of sentences that the prompt asks for.
    """
    if posts := _POSTS.search(prompt):
        first, second = len(posts[2]), len(posts[3])
        return verdict_text("A" if first > second else "B" if second > first else "tie", posts[2], posts[3], quote)
    number = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
    wanted = _LENGTH.search(prompt)
    more = range(24, 8 + 8 * int(wanted[1]), 8) if wanted else ()
    between = [f"Ask {number[at : at + 8]} about it." for at in more]
    return " ".join([f"Offer {number[:12]} is here.", *between, f"Order {number[12:24]} today!"])


def verdict_text(pick: str, post_a: str, post_b: str, quote: str) -> str:
    """A verdict that quotes both posts first: in its reason (escaped or not), as quoted lines of prose, or with JSON
    in the posts reformatted.
    """
    reason = f"A says {post_a}, and B says {post_b}"
    match quote:
        case "escaped":
            return json.dumps({"criteria": [], "why": reason, "verdict": pick})
        case "unescaped":
            return f'{{"criteria": [], "why": "{reason}", "verdict": "{pick}"}}'
        case "lines":
            return "".join(f"> {line}\n" for line in reason.splitlines()) + f"\nVerdict: {pick}"
        case "pretty":
            pretty = re.sub(r"\s*([{}:,])\s*", r" \1\n  ", reason)
            return f'I follow neither: {pretty}\n{{"verdict": "{pick}"}}'
        case _:
            return json.dumps({"verdict": pick})


class ChatServer:
    """A test's client of a running server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def base_url(self, backend: str) -> str:
        """The `base_url` of a profile for the backend's SDK."""
        return f"http://127.0.0.1:{self.port}" + ("/v1" if backend == "openai" else "")

    def script(self, *rules: Rule) -> None:
        """Clears rules and log; from now on the first rule that applies decides each request."""
        self._call("/control", json.dumps([rule._asdict() for rule in rules]).encode())

    def log(self) -> Log:
        """Requests since the last `script`."""
        content = self._call("/log")
        return Log([Seen(*seen) for seen in content["requests"]], content["most_in_flight"])

    def wait_for(self, is_met: Callable[[Log], bool]) -> Log:
        """The log as soon as it meets a condition."""
        until = time.monotonic() + 120
        while not is_met(log := self.log()):
            assert time.monotonic() < until, f"not met within two minutes, with {len(log.requests)} requests"
            time.sleep(0.01)
        return log

    def _call(self, path: str, data: bytes | None = None) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=120) as response:
            return json.loads(response.read())


@contextlib.contextmanager
def chat_server(port: int = 0) -> Iterator[ChatServer]:
    """A server process; it ends with the context, or with this process."""
    with subprocess.Popen(
        command("chat_server", port), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        try:
            yield ChatServer(int(process.stdout.readline()))
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


# From here on: the server's own process.


class _State:
    """Rules and log between two scripts."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self.used = [0] * len(rules)
        self.seen: dict[int, Seen] = {}
        self.count = self.in_flight = self.most_in_flight = self.models_asked = 0
        self.is_over = asyncio.Event()

    def rule_for(self, number: int, prompt: str, to: str = "chat") -> Rule:
        for index, rule in enumerate(self.rules):
            fits = rule.to == to and (not rule.numbers or number in rule.numbers) and rule.marker in prompt
            if fits and (rule.times is None or self.used[index] < rule.times):
                self.used[index] += 1
                return rule
        return Rule()


class _Server:
    def __init__(self) -> None:
        self.state = _State([])

    async def control(self, request: Any) -> Any:
        from aiohttp import web

        rules = [Rule(**{**rule, "numbers": tuple(rule["numbers"])}) for rule in await request.json()]
        self.state.is_over.set()
        self.state = _State(rules)
        return web.json_response({})

    async def log(self, request: Any) -> Any:
        from aiohttp import web

        state = self.state
        seen = [state.seen[number] for number in sorted(state.seen)]
        return web.json_response({"requests": seen, "most_in_flight": state.most_in_flight})

    async def models(self, request: Any) -> Any:
        from aiohttp import web

        self.state.models_asked += 1
        rule = self.state.rule_for(self.state.models_asked, "", "models")
        listed = json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})
        text = listed if rule.body is None else rule.body
        return web.Response(status=rule.status, headers=rule.headers, text=text)

    async def chat(self, request: Any) -> Any:
        state, at = self.state, time.monotonic()
        state.count += 1
        number = state.count
        state.in_flight += 1
        state.most_in_flight = max(state.most_in_flight, state.in_flight)
        try:
            body = json.loads(await request.read())
            prompt = body["messages"][-1]["content"] if body["messages"] else ""
            rule = state.rule_for(number, prompt)
            text = reply_text(prompt, rule.quote) if rule.text is None else rule.text
            sent = sum(len(turn["content"].encode("utf-8", "surrogatepass")) for turn in body["messages"])
            most = body.get("max_tokens") or body.get("max_completion_tokens")
            answered = min(most, len(text.encode("utf-8", "surrogatepass")) // rule.bytes_a_token + 1)
            # An error is free; a request that was worked on is billed, whether the client has the reply or not.
            billed = (sent // rule.bytes_a_token + 1, answered) if rule.status < 300 else (0, 0)
            authorization = request.headers.get("Authorization", "")
            seen = Seen(number, at, 0.0, request.path, prompt, body, authorization, rule.status, False, *billed)
            state.seen[number] = seen
            response = await self._answer(request, state, rule, seen, text)
            state.seen[number] = seen._replace(ended_at=time.monotonic(), is_answered=response is not None)
            return response or _nothing()
        finally:
            state.in_flight -= 1

    async def _answer(self, request: Any, state: _State, rule: Rule, seen: Seen, text: str) -> Any:
        from aiohttp import web

        if rule.delay:
            await asyncio.sleep(rule.delay)
        if rule.act == "hang":
            await state.is_over.wait()
            return None
        transport = request.transport
        if transport is None or transport.is_closing():
            return None
        if rule.act == "reset":
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if rule.act == "truncate":
            transport.write(
                b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"choices"'
            )
        if rule.act in ("drop", "reset", "truncate"):
            transport.close() if rule.act != "reset" else transport.abort()
            return None
        body = rule.body if rule.body is not None else json.dumps(self._body(rule, seen, text))
        content = body.replace("{authorization}", seen.authorization).encode(rule.encoding, "surrogatepass")
        headers = {name: value.format(authorization=seen.authorization) for name, value in (rule.headers or {}).items()}
        response = web.StreamResponse(status=rule.status, headers={"Content-Type": "application/json", **headers})
        try:
            await response.prepare(request)
            for piece in [content] if rule.act != "trickle" else [bytes([byte]) for byte in content]:
                await response.write(piece)
                if rule.act == "trickle":
                    await asyncio.sleep(0.01)
            await response.write_eof()
        except ConnectionError:
            return None
        return response

    def _body(self, rule: Rule, seen: Seen, text: str) -> dict[str, Any]:
        if rule.status >= 300:
            return {"error": {"message": f"scripted {rule.status}", "type": "scripted", "code": None}}
        counted = {"prompt_tokens": seen.prompt_tokens, "completion_tokens": seen.completion_tokens}
        message = {"role": "assistant", "content": text}
        return {
            "id": f"chatcmpl-{seen.number}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": rule.model or seen.body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": rule.finish_reason}],
            **({} if rule.usage == "none" else {"usage": counted if rule.usage == "counted" else rule.usage}),
        }


def _nothing() -> Any:
    from aiohttp import web

    return web.Response(status=500)


async def _serve(port: int) -> None:
    from aiohttp import web

    server = _Server()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/control", server.control)
    app.router.add_get("/log", server.log)
    for prefix in ("/v1", "/openai/v1"):
        app.router.add_post(f"{prefix}/chat/completions", server.chat)
        app.router.add_get(f"{prefix}/models", server.models)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.state.is_over.set()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
