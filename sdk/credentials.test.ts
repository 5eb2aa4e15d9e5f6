import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { newIdentity } from "../tests/signing.ts";
import { Agent } from "./agent.ts";
import { callSigner } from "./credentials.ts";
import { readDelegation } from "./delegation.ts";
import { AgentStopped } from "./errors.ts";
import { useStage } from "./stage-for-tests.ts";

const stage = useStage();
const storePath = (name: string) => join(stage.folder, `${name}.db`);

describe.each(["agent", "server"] as const)("an agent of %s custody", (custody) => {
  test("names the key that signs its calls, before it is registered and after", async () => {
    const before = await Agent.keyId({ storePath: storePath("alice"), custody });
    const alice = await stage.open("alice", { custody });
    expect(alice.keyId).toBe(before);
    expect(alice.keyId === alice.id).toBe(custody === "agent");
  });

  test("that was opened with a signing key names that, and is given chains for it", async () => {
    const alice = await stage.open("alice", { custody });
    const bob = await stage.open("bob");
    await alice.close();
    const worker = newIdentity();
    const again = await Agent.open({ storePath: storePath("alice"), signingKey: worker.signing.privateKey });
    expect([again.id, again.keyId]).toEqual([alice.id, worker.agentId]);
    const { chain } = await bob.delegate({ to: again.id, keyId: again.keyId, recipients: "*", lifeMs: 60_000 });
    expect(readDelegation(chain)).toMatchObject([{ iss: bob.id, sub: alice.id, jkt: worker.agentId }]);
    await again.close();
    expect([again.keyId, again.custody]).toEqual([worker.agentId, custody]);
    await expect(again.delegate({ to: bob.id, recipients: "*", lifeMs: 60_000 })).rejects.toBeInstanceOf(AgentStopped);
    // It is not kept: without it the agent's own is named again.
    const own = await Agent.open({ storePath: storePath("alice") });
    expect(own.keyId).toBe(alice.keyId);
    await own.close();
  });

  test("is not opened with a signing key that is none", async () => {
    const alice = await stage.open("alice", { custody });
    await alice.close();
    const opening = Agent.open({ storePath: storePath("alice"), signingKey: new Uint8Array(31) });
    await expect(opening).rejects.toMatchObject({ code: "signing-key-malformed" });
  });
});

test("a signing key signs under its own id, with the chain that the agent presents", () => {
  const [me, worker] = [newIdentity(), newIdentity()];
  const signer = callSigner(me, { signingKey: worker.signing.privateKey, delegation: "a chain" });
  expect([signer.agentId, signer.delegation]).toEqual([worker.agentId, "a chain"]);
  expect(signer.signing.publicKey).toEqual(worker.signing.publicKey);
  expect(callSigner(me, {}).agentId).toBe(me.agentId);
});
