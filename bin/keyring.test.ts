import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { openTokens, PIN, type Tokens } from "../tests/token.ts";

const SCRIPT = fileURLToPath(import.meta.resolve("./keyring.ts"));

let tokens: Tokens;
let folder: string;

beforeAll(() => {
  tokens = openTokens();
  tokens.make("sealpost");
});
afterAll(() => tokens.remove());
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sealpost-keyring-"));
  return () => rmSync(folder, { recursive: true });
});

function run(env: Record<string, string>, ...words: string[]): { status: number | null; output: string } {
  const done = spawnSync(process.execPath, [SCRIPT, ...words], {
    env: { PATH: process.env["PATH"], SOFTHSM2_CONF: process.env["SOFTHSM2_CONF"], ...env },
    encoding: "utf8",
  });
  return { status: done.status, output: done.stdout + done.stderr };
}

const file = () => ({
  SEALPOST_KEYRING_FILE: join(folder, "keyring"),
  SEALPOST_KEYRING_ROOT_FILE: join(folder, "root"),
});
const token = () => ({
  SEALPOST_KEYRING_FILE: join(folder, "keyring"),
  SEALPOST_PKCS11_MODULE: tokens.modulePath,
  SEALPOST_PKCS11_TOKEN: "sealpost",
  SEALPOST_PKCS11_PIN: PIN,
});

describe("the command `keyring`", () => {
  test.each([
    ["a file", file],
    ["a token", token],
  ])("makes a keyring once, and rotates and checks it, under root keys in %s", (_name, env) => {
    expect(run(env(), "check")).toMatchObject({ status: 1, output: expect.stringMatching(/^keyring-missing: /) });
    const made = run(env(), "create");
    expect(made).toMatchObject({
      status: 0,
      output: expect.stringMatching(/^keyring [0-9a-f-]{36} under root key 1\n$/),
    });
    expect(run(env(), "create")).toMatchObject({ status: 1, output: expect.stringMatching(/^keyring-exists: /) });
    expect(run(env(), "check").output).toBe(made.output);
    expect(run(env(), "rotate").output).toBe(made.output.replace("key 1", "key 2"));
    expect(run(env(), "check").status).toBe(0);
  });

  test("names what is wrong with its words, its environment and its token, and never the PIN", () => {
    expect(run(file(), "open").status).toBe(2);
    const both = { ...file(), ...token() };
    expect(run(both, "check").output).toContain("SEALPOST_KEYRING_ROOT_FILE");
    const wrong = run({ ...token(), SEALPOST_PKCS11_PIN: "00000000" }, "check");
    expect(wrong).toMatchObject({ status: 1, output: expect.stringMatching(/^pin-wrong: /) });
    expect(wrong.output).not.toContain("00000000");
  });
});
