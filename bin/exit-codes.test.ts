import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import path from "node:path";
import { expect, test } from "vitest";
import { Unavailable } from "../protocol/refusal.ts";
import { KeyringError } from "../store/keyring/keyring.ts";
import { StoodStill } from "../streams/runner-options.ts";
import { exitCodeOf, exitCodes } from "./exit-codes.ts";

test("every cause has a code of its own", () => {
  const codes = Object.values(exitCodes);
  expect(codes.length).toBeGreaterThan(5);
  expect(new Set(codes).size).toBe(codes.length);
});

test.each([
  ["a server that is away", new Unavailable("registry", new Error("ECONNREFUSED")), 3],
  ["a keyring that is another's", new KeyringError("keyring-foreign"), 4],
  ["a keyring that broke while it was used", new Unavailable("keyring", new KeyringError("keyring-damaged")), 4],
  ["a keyring's file that cannot be read just now", new Unavailable("keyring", new Error("EIO")), 3],
  ["a consumer that stands still", new StoodStill(), 5],
  ["anything else: a bug", new TypeError("x is not a function"), 1],
  ["what is no error at all", "text", 1],
])("%s", (_name, error, code) => expect(exitCodeOf(error)).toBe(code));

const nowhere = {
  SEALPOST_KAFKA_BROKERS: "127.0.0.1:1",
  SEALPOST_REGISTRY_URL: "http://127.0.0.1:1",
  SEALPOST_POSTGRES_URL: "postgres://127.0.0.1:1/none",
  SEALPOST_REDIS_URL: "redis://127.0.0.1:1",
  SEALPOST_HTTP_PORT: "0",
};

async function ended(words: readonly string[], env: Readonly<Record<string, string>>): Promise<number | null> {
  const child = spawn(process.execPath, [path.join(import.meta.dirname, "service.ts"), ...words], {
    env,
    stdio: "ignore",
  });
  const [code] = await once(child, "exit");
  return code;
}

test("the service ends with 2 for wrong words and a wrong environment, 3 without servers, 4 without its keyring", async () => {
  const keyring = { SEALPOST_KEYRING_FILE: "/nowhere/keyring", SEALPOST_KEYRING_ROOT_FILE: "/nowhere/root" };
  const codes = await Promise.all([
    ended(["postman"], nowhere),
    ended(["api"], {}),
    ended(["acks"], nowhere),
    ended(["encryption"], { ...nowhere, ...keyring }),
  ]);
  expect(codes).toEqual([2, 2, 3, 4]);
}, 120_000);

test("an address that is taken is a wrong environment: 2", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const error = await new Promise((resolve) => {
    createServer()
      .once("error", resolve)
      .listen((server.address() as { readonly port: number }).port, "127.0.0.1");
  });
  server.close();
  expect(exitCodeOf(error)).toBe(2);
});
