import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { epochOf, type IngressCommand, sealIngress } from "../protocol/ingress.ts";
import { DAY_MS } from "../protocol/limits.ts";
import { noblePrimitives } from "../protocol/primitives/noble.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { Refusal } from "../protocol/refusal.ts";
import { destroyEpochs, type Ingress, isEpochAccepted, openIngressKeys } from "./ingress.ts";
import type { Keyring } from "./keyring/keyring.ts";
import { createKeyring, openKeyring } from "./keyring/keyring-file.ts";
import { openRootFile } from "./keyring/root-file.ts";

const NOON = Date.UTC(2026, 10, 25, 12);
const SECOND_MS = 1_000;
const HOUR_MS = 3_600_000;

const command: IngressCommand = {
  senderId: "a".repeat(43),
  recipientId: "b".repeat(43),
  messageId: "01890a5d-ac96-774b-bcce-b302099a8057",
};

let folder: string;
let keyring: Keyring;
let nowMs: number;
let ingress: Ingress;

function open(): Ingress {
  keyring = openKeyring(join(folder, "keyring"), openRootFile(join(folder, "root")));
  const opened = openIngressKeys(keyring, () => nowMs);
  onTestFinished(() => opened.close());
  return opened;
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sealpost-ingress-"));
  createKeyring(join(folder, "keyring"), openRootFile(join(folder, "root")));
  nowMs = NOON;
  ingress = open();
  return () => rmSync(folder, { recursive: true });
});

const seal = (key = ingress.currentKey()) => sealIngress(noblePrimitives, nodeRandom, key, command, nodeRandom(20));

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "opened",
    (error: unknown) => {
      if (error instanceof Refusal) return error.code;
      throw error;
    },
  );
}

describe("the key of an epoch", () => {
  test("is the same for every process, another each day, and opens what was sealed to it after midnight too", async () => {
    const other = open();
    const key = ingress.currentKey();
    expect(key.epoch).toBe(epochOf(NOON));
    expect(other.currentKey()).toEqual(key);
    const sealed = await seal();
    nowMs += DAY_MS;
    expect(ingress.currentKey().epoch).toBe(key.epoch + 1);
    expect(ingress.currentKey().publicKey).not.toEqual(key.publicKey);
    for (const each of [ingress, other]) expect((await each.open(command, sealed)).length).toBe(20);
  });

  test("once destroyed opens nothing, and is named as gone; one that never was is unknown", async () => {
    const key = ingress.currentKey();
    const sealed = await seal();
    const later = await seal({ ...key, epoch: key.epoch + 9 });
    nowMs += 3 * DAY_MS;
    destroyEpochs(keyring, key.epoch, nowMs);
    nowMs += SECOND_MS;
    expect(await codeOf(ingress.open(command, sealed))).toBe("opened");
    destroyEpochs(keyring, key.epoch + 1, nowMs);
    nowMs += SECOND_MS;
    expect(await codeOf(ingress.open(command, sealed))).toBe("epoch-gone");
    expect(await codeOf(ingress.open(command, later))).toBe("epoch-unknown");
    expect(await codeOf(ingress.open(command, sealed.subarray(0, 50)))).toBe("malformed");
  });

  test("of another epoch does not open what says it is of this one", async () => {
    const key = ingress.currentKey();
    nowMs += DAY_MS;
    const moved = await seal({ epoch: key.epoch, publicKey: ingress.currentKey().publicKey });
    expect(await codeOf(ingress.open(command, moved))).toBe("auth-failed");
  });

  test("is never destroyed while content of it may be accepted or on its way into the log", async () => {
    const { epoch } = ingress.currentKey();
    const sealed = await seal();
    const midnight = (epoch + 1) * DAY_MS;
    expect([epoch - 2, epoch - 1, epoch, epoch + 1].map((each) => isEpochAccepted(each, NOON))).toEqual([
      false,
      true,
      true,
      false,
    ]);
    expect(isEpochAccepted(epoch + 1, midnight - 1)).toBe(true);
    expect(isEpochAccepted(epoch, midnight + DAY_MS - 1)).toBe(true);
    expect(isEpochAccepted(epoch, midnight + DAY_MS)).toBe(false);
    nowMs = midnight + DAY_MS + HOUR_MS - 1;
    destroyEpochs(keyring, Number.POSITIVE_INFINITY, nowMs);
    nowMs += SECOND_MS;
    expect(await codeOf(ingress.open(command, sealed))).toBe("opened");
    destroyEpochs(keyring, Number.POSITIVE_INFINITY, nowMs);
    nowMs += SECOND_MS;
    expect(await codeOf(ingress.open(command, sealed))).toBe("epoch-gone");
  });
});
