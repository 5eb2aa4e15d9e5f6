import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openSampleDatabase, sampleAgentId } from "../tests/messaging.ts";
import { findAgents, registerAgent } from "./agents.ts";
import type { Postgres } from "./postgres.ts";
import {
  claimBundle,
  forgetClaims,
  type OneTimePrekey,
  oneTimePrekeysMax,
  type SignedPrekey,
  uploadPrekeys,
} from "./prekeys.ts";

const now = 1_800_000_000_000;
const dayMs = 24 * 60 * 60 * 1000;

let postgres: Postgres;
beforeAll(async () => {
  postgres = await openSampleDatabase();
});
afterAll(() => postgres.close());

function register(agentId: string) {
  const fact = { id: randomUUID(), topic: "agent.changed.v1", key: agentId, value: Uint8Array.of(1), headers: {} };
  return registerAgent(postgres, { agentId, identityKey: randomBytes(32), custody: "agent", now, fact });
}

async function sampleAgent(): Promise<string> {
  const agentId = sampleAgentId();
  await register(agentId);
  return agentId;
}

function signed(): SignedPrekey {
  return { id: randomUUID(), publicKey: randomBytes(32), createdAt: now - 1_000, signature: randomBytes(64) };
}

function oneTime(count: number): OneTimePrekey[] {
  return Array.from({ length: count }, () => ({ id: randomUUID(), publicKey: randomBytes(32) }));
}

let requests = 0;
function claim(targetId: string, claimerId = "claimer", requestId = `request-${requests++}`, at = now) {
  return claimBundle(postgres, { claimerId, requestId, targetId, now: at });
}

describe("agents", () => {
  test("an agent is registered once; later registrations change nothing and tell nobody", async () => {
    const agentId = sampleAgentId();
    expect(await register(agentId)).toEqual({ created: true });
    const first = await findAgents(postgres, [agentId]);
    expect(first.get(agentId)).toMatchObject({ agentId, custody: "agent", status: "active", createdAt: now });
    expect(await register(agentId)).toEqual({ created: false });
    expect(await findAgents(postgres, [agentId])).toEqual(first);
    const { rowCount } = await postgres.query({ text: "SELECT FROM facts WHERE key = $1", values: [agentId] });
    expect(rowCount).toBe(1);
  });

  test("registrations of one agent at the same moment create it once", async () => {
    const agentId = sampleAgentId();
    const answers = await Promise.all([1, 2, 3, 4, 5].map(() => register(agentId)));
    expect(answers.filter(({ created }) => created)).toHaveLength(1);
  });

  test("only those that exist are found", async () => {
    const agentId = await sampleAgent();
    expect([...(await findAgents(postgres, [sampleAgentId(), agentId, sampleAgentId()])).keys()]).toEqual([agentId]);
    expect(await findAgents(postgres, [])).toEqual(new Map());
  });
});

describe("uploading", () => {
  test("the same upload again is fine and adds nothing", async () => {
    const agentId = await sampleAgent();
    const upload = { signedPrekey: signed(), oneTimePrekeys: oneTime(3) };
    expect(await uploadPrekeys(postgres, agentId, upload, now)).toEqual({ oneTimePrekeysRemaining: 3 });
    expect(await uploadPrekeys(postgres, agentId, upload, now)).toEqual({ oneTimePrekeysRemaining: 3 });
  });

  test("other bytes under a known id are refused, and nothing of that upload is stored", async () => {
    const agentId = await sampleAgent();
    const upload = { signedPrekey: signed(), oneTimePrekeys: oneTime(1) };
    await uploadPrekeys(postgres, agentId, upload, now);
    const [known] = upload.oneTimePrekeys;
    const changed = { id: known?.id ?? "", publicKey: randomBytes(32) };
    for (const conflicting of [
      { oneTimePrekeys: [...oneTime(1), changed] },
      { signedPrekey: { ...upload.signedPrekey, signature: randomBytes(64) }, oneTimePrekeys: oneTime(1) },
      { signedPrekey: { ...upload.signedPrekey, createdAt: now }, oneTimePrekeys: oneTime(1) },
      { oneTimePrekeys: [{ id: upload.signedPrekey.id, publicKey: upload.signedPrekey.publicKey }] },
    ]) {
      await expect(uploadPrekeys(postgres, agentId, conflicting, now)).rejects.toMatchObject({
        code: "prekey-conflict",
      });
    }
    const twice = oneTime(1).flatMap((key) => [key, { ...key, publicKey: randomBytes(32) }]);
    await expect(uploadPrekeys(postgres, agentId, { oneTimePrekeys: twice }, now)).rejects.toMatchObject({
      code: "prekey-conflict",
    });
    expect(await uploadPrekeys(postgres, agentId, { oneTimePrekeys: [] }, now)).toEqual({ oneTimePrekeysRemaining: 1 });
  });

  test("two agents may use the same prekey id", async () => {
    const keys = oneTime(1);
    for (const agentId of [await sampleAgent(), await sampleAgent()]) {
      expect(await uploadPrekeys(postgres, agentId, { oneTimePrekeys: keys }, now)).toEqual({
        oneTimePrekeysRemaining: 1,
      });
    }
  });

  test("a new signed prekey takes the place of the older one; the older one again does not come back", async () => {
    const agentId = await sampleAgent();
    const [first, second] = [signed(), signed()];
    for (const signedPrekey of [first, second, first]) {
      await uploadPrekeys(postgres, agentId, { signedPrekey, oneTimePrekeys: [] }, now);
    }
    expect((await claim(agentId))?.signedPrekey).toEqual(second);
    const { rows } = await postgres.query({
      text: "SELECT status, deprecated_at FROM messaging_prekeys WHERE agent_id = $1 ORDER BY place",
      values: [agentId],
    });
    expect(rows).toEqual([
      { status: "DEPRECATED", deprecated_at: now },
      { status: "ACTIVE", deprecated_at: null },
    ]);
  });

  test("signed prekeys uploaded at the same moment leave one active", async () => {
    const agentId = await sampleAgent();
    await Promise.all(
      [1, 2, 3, 4].map(() => uploadPrekeys(postgres, agentId, { signedPrekey: signed(), oneTimePrekeys: [] }, now)),
    );
    const { rows } = await postgres.query({
      text: "SELECT count(*) AS active FROM messaging_prekeys WHERE agent_id = $1 AND status = 'ACTIVE'",
      values: [agentId],
    });
    expect(rows).toEqual([{ active: 1 }]);
  });

  test("an agent that is not registered cannot upload, and one cannot pile up more than its share", async () => {
    await expect(uploadPrekeys(postgres, sampleAgentId(), { oneTimePrekeys: [] }, now)).rejects.toMatchObject({
      code: "agent-unknown",
    });
    const agentId = await sampleAgent();
    await uploadPrekeys(postgres, agentId, { oneTimePrekeys: oneTime(oneTimePrekeysMax) }, now);
    await expect(uploadPrekeys(postgres, agentId, { oneTimePrekeys: oneTime(1) }, now)).rejects.toMatchObject({
      code: "too-many",
    });
  });
});

describe("claiming", () => {
  test("one-time keys go out first in, first out, and then bundles come without", async () => {
    const agentId = await sampleAgent();
    const [early, late] = [oneTime(3), oneTime(2)];
    const signedPrekey = signed();
    await uploadPrekeys(postgres, agentId, { signedPrekey, oneTimePrekeys: early }, now);
    await uploadPrekeys(postgres, agentId, { oneTimePrekeys: late }, now);
    for (const [index, key] of [...early, ...late].entries()) {
      expect(await claim(agentId)).toMatchObject({
        agentId,
        signedPrekey,
        oneTimePrekey: key,
        oneTimePrekeysRemaining: 4 - index,
      });
    }
    expect(await claim(agentId)).toMatchObject({ signedPrekey, oneTimePrekey: null, oneTimePrekeysRemaining: 0 });
  });

  test("64 claims at the same moment get 40 different keys, and 24 get none", async () => {
    const agentId = await sampleAgent();
    await uploadPrekeys(postgres, agentId, { signedPrekey: signed(), oneTimePrekeys: oneTime(40) }, now);
    const bundles = await Promise.all(Array.from({ length: 64 }, () => claim(agentId)));
    const ids = bundles.flatMap((bundle) => bundle?.oneTimePrekey?.id ?? []);
    expect(bundles.every((bundle) => bundle !== null)).toBe(true);
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids.length).toBe(40);
  });

  test("the same request again gets the same bundle and takes no key, also at the same moment", async () => {
    const agentId = await sampleAgent();
    await uploadPrekeys(postgres, agentId, { signedPrekey: signed(), oneTimePrekeys: oneTime(5) }, now);
    const bundles = await Promise.all(Array.from({ length: 16 }, () => claim(agentId, "somebody", "one-request")));
    await uploadPrekeys(postgres, agentId, { signedPrekey: signed(), oneTimePrekeys: [] }, now);
    const later = await claim(agentId, "somebody", "one-request");
    const keys = [...bundles, later].map((bundle) => [bundle?.signedPrekey.id, bundle?.oneTimePrekey?.id]);
    expect(new Set(keys.map((pair) => pair.join())).size).toBe(1);
    expect(later?.oneTimePrekeysRemaining).toBe(4);
    expect((await claim(agentId, "somebody else", "one-request"))?.oneTimePrekey?.id).not.toBe(
      later?.oneTimePrekey?.id,
    );
  });

  test("one request id may claim from two targets", async () => {
    const targets = [await sampleAgent(), await sampleAgent()];
    for (const agentId of targets) {
      await uploadPrekeys(postgres, agentId, { signedPrekey: signed(), oneTimePrekeys: [] }, now);
    }
    const bundles = await Promise.all(targets.map((agentId) => claim(agentId, "claimer", "two-targets")));
    expect(bundles.map((bundle) => bundle?.agentId)).toEqual(targets);
  });

  test("without a signed prekey there is no bundle, and no one-time key is spent", async () => {
    const agentId = await sampleAgent();
    await uploadPrekeys(postgres, agentId, { oneTimePrekeys: oneTime(1) }, now);
    expect(await claim(agentId)).toBeNull();
    expect(await claim(sampleAgentId())).toBeNull();
    await uploadPrekeys(postgres, agentId, { signedPrekey: signed(), oneTimePrekeys: [] }, now);
    expect(await claim(agentId)).toMatchObject({ oneTimePrekeysRemaining: 0 });
  });

  test("a one-time key older than 30 days is not handed out", async () => {
    const agentId = await sampleAgent();
    await uploadPrekeys(postgres, agentId, { signedPrekey: signed(), oneTimePrekeys: oneTime(1) }, now - 30 * dayMs);
    expect(await claim(agentId)).toMatchObject({ oneTimePrekey: null, oneTimePrekeysRemaining: 0 });
  });

  test("a forgotten claim is a new request", async () => {
    const agentId = await sampleAgent();
    await uploadPrekeys(postgres, agentId, { signedPrekey: signed(), oneTimePrekeys: oneTime(2) }, now);
    const first = await claim(agentId, "claimer", "forgotten", now - dayMs);
    expect(await forgetClaims(postgres, now - dayMs)).toBe(0);
    expect(await forgetClaims(postgres, now - dayMs + 1)).toBe(1);
    expect((await claim(agentId, "claimer", "forgotten"))?.oneTimePrekey?.id).not.toBe(first?.oneTimePrekey?.id);
  });
});
