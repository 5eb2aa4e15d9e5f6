import { createServer } from "node:http";
import { connect } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { startHttp } from "./server.ts";

/** What the server sends until it closes the connection. */
function untilClosed(url: string, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(url).port), "127.0.0.1", () => socket.write(text));
    let answer = "";
    socket.setEncoding("latin1").on("data", (data) => {
      answer += data;
    });
    socket.on("close", () => resolve(answer)).on("error", reject);
  });
}

const listen = { port: 0, host: "127.0.0.1" };

test("headers and bodies that never end are answered 408 and cut off", async () => {
  const http = await startHttp((request, response) => request.resume().on("end", () => response.end("done")), listen, {
    headersMax: 100,
    requestMax: 300,
  });
  const headers = untilClosed(http.url, "POST / HTTP/1.1\r\nhost: a\r\nx: ");
  const body = untilClosed(http.url, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc");
  expect(await headers).toMatch(/^HTTP\/1\.1 408 .*application\/problem\+json/s);
  expect(await body).toMatch(/^HTTP\/1\.1 408 /);
  await http.close();
});

test("a connection on which nothing happens is cut off", async () => {
  const http = await startHttp(() => undefined, listen, { silentMax: 100 });
  expect(await untilClosed(http.url, "GET / HTTP/1.1\r\nhost: a\r\n\r\n")).toBe("");
  await http.close();
});

test("a close lets a running request end, and takes no new one", async () => {
  const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
  const http = await startHttp((_, response) => {
    begin();
    setTimeout(() => response.end("late"), 150);
  }, listen);
  const running = fetch(http.url);
  await begun;
  const closed = http.close();
  expect(await (await running).text()).toBe("late");
  await closed;
  await expect(fetch(http.url)).rejects.toThrow();
});

test("a close does not wait for ever", async () => {
  const http = await startHttp(() => undefined, listen, { closeMax: 50 });
  const running = fetch(http.url).catch(() => "cut off");
  await new Promise((resolve) => setTimeout(resolve, 50));
  await http.close();
  expect(await running).toBe("cut off");
});

test("a port that is taken is an error, not a silence", async () => {
  const taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
  const { port } = taken.address() as { port: number };
  await expect(startHttp(() => undefined, { port, host: "127.0.0.1" })).rejects.toThrow("EADDRINUSE");
  await new Promise((resolve) => taken.close(resolve));
});

/** A client that closes nothing, and sends a byte now and then. Resolves with what it heard when the server has closed it. */
function dribble(url: string, text: string): Promise<string> {
  const socket = connect({ port: Number(new URL(url).port), host: "127.0.0.1", allowHalfOpen: true });
  const timer = setInterval(() => socket.write("x"), 20);
  onTestFinished(() => {
    clearInterval(timer);
    socket.destroy();
  });
  socket.write(text);
  let heard = "";
  socket.setEncoding("latin1").on("data", (data) => {
    heard += data;
  });
  return new Promise((resolve) => socket.on("error", () => undefined).once("close", () => resolve(heard)));
}

test("a client that is told 408 and goes on sending is cut off", async () => {
  const http = await startHttp((request) => request.resume(), listen, { headersMax: 100, requestMax: 200 });
  expect(await dribble(http.url, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n")).toMatch(/ 408 /);
  await http.close();
});

test("an offer to speak something else is ignored, and its request is one like others; WebSocket's is one", async () => {
  const http = await startHttp((_, response) => response.end("served"), listen);
  http.server.on("upgrade", (_, socket) => socket.end("HTTP/1.1 426 Upgraded\r\n\r\n"));
  const offer = (protocol: string) =>
    untilClosed(http.url, `GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: ${protocol}\r\n\r\n`);
  expect(await offer("h2c")).toMatch(/^HTTP\/1\.1 200 .*served$/s);
  expect(await offer("WebSocket")).toMatch(/^HTTP\/1\.1 426 /);
  await http.close();
});
