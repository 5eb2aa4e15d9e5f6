import { execFile } from "node:child_process";
import path from "node:path";
import { afterEach, expect, test } from "vitest";
import type { HttpDeps } from "../api/http/route.ts";
import { type InMemoryService, inMemoryService } from "../tests/in-memory-service.ts";

const token = "a-token-of-the-operators-0123456789";

let service: InMemoryService | undefined;
afterEach(async () => {
  await service?.http.close();
  service = undefined;
});

interface Ended {
  readonly code: number;
  readonly said: string;
}

function run(args: readonly string[], env: Readonly<Record<string, string>>): Promise<Ended> {
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [path.join(import.meta.dirname, "rotate.ts"), ...args],
      { env },
      (_, out, err) => resolve({ code: child.exitCode ?? -1, said: out + err }),
    );
  });
}

async function rotated(answer: Awaited<ReturnType<HttpDeps["rotatePrekeys"]>>, opsToken: string | undefined = token) {
  service = await inMemoryService({ opsToken, rotatePrekeys: async () => answer });
  return run([service.bob.agentId], { SEALPOST_OPS_URL: `${service.ops.url}/`, SEALPOST_OPS_TOKEN: token });
}

test("it ends with 0 when the prekeys were rotated, or a connected agent was asked to", async () => {
  expect(await rotated({ outcome: "rotated", signedPrekeyId: "0198c0de-7a11-7b2c-9d3e-4f5061728394" })).toEqual({
    code: 0,
    said: expect.stringContaining("0198c0de-7a11-7b2c-9d3e-4f5061728394"),
  });
  await service?.http.close();
  expect(await rotated({ outcome: "asked", connected: true })).toMatchObject({ code: 0 });
});

test.each([
  ["nobody can be asked", { outcome: "asked", connected: false }, "not connected"],
  ["the rotation failed", { outcome: "failed", code: "keys-unavailable" }, "409 keys-unavailable"],
  ["there is no such agent", null, "404 no-such-agent"],
] as const)("when %s it says so and ends with 1", async (_, answer, said) => {
  expect(await rotated(answer)).toEqual({ code: 1, said: expect.stringContaining(said) });
});

test("a token that the service does not have, and a service that is not there, are told apart", async () => {
  expect(await rotated(null, `${token}-another`)).toEqual({
    code: 1,
    said: expect.stringContaining("operator-unknown"),
  });
  const { agentId } = (service as InMemoryService).bob;
  const nowhere = { SEALPOST_OPS_URL: "http://127.0.0.1:1", SEALPOST_OPS_TOKEN: token };
  expect(await run([agentId], nowhere)).toEqual({ code: 1, said: expect.stringContaining("there is no answer") });
});

test("wrong words and a wrong environment end with 2 and say what would be right, never the token", async () => {
  expect(await run([], { SEALPOST_OPS_TOKEN: token })).toEqual({ code: 2, said: expect.stringContaining("Usage") });
  expect(await run(["bob"], { SEALPOST_OPS_TOKEN: token })).toMatchObject({ code: 2 });
  const agentId = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
  const { code, said } = await run([agentId], { SEALPOST_OPS_TOKEN: "too-short" });
  expect(code).toBe(2);
  expect(said).toContain("at least 32");
  expect(said).not.toContain("too-short");
});
