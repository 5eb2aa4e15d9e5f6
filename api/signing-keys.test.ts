import { expect, test } from "vitest";
import { WebSocket } from "ws";
import type { Identity } from "../protocol/identity.ts";
import type { SigningKey } from "../store/signing-keys.ts";
import { newIdentity } from "../tests/signing.ts";
import { until } from "../tests/stream-client.ts";
import { connect, connectEvents, newWorld, type Place, startGateway } from "../tests/stream-stage.ts";
import { cachedSigningKeys } from "./signing-keys.ts";

const start = 1_000_000;

function keyOf(worker = newIdentity(), agentId = newIdentity().agentId, notAfter = Date.now() + 60_000): SigningKey {
  return { keyId: worker.agentId, agentId, publicKey: worker.signing.publicKey, notAfter, createdAt: 1 };
}

function given(key: SigningKey | "ended" | null) {
  let [now, there, asked] = [start, key, 0];
  const find = cachedSigningKeys(
    async () => {
      asked++;
      return there;
    },
    () => now,
  );
  const as = {
    later: (ms: number) => {
      now += ms;
    },
    become: (other: typeof key) => {
      there = other;
    },
    asked: () => asked,
  };
  return { find, ...as };
}

test("a clock that is set back keeps no removed key for longer", async () => {
  const key = keyOf();
  const { find, later, become } = given(key);
  expect(await find(key.keyId)).toBe(key);
  later(-3_600_000);
  become(null);
  expect(await find(key.keyId)).toBe(null);
});

test("a key that was removed is refused after five seconds at the latest", async () => {
  const key = keyOf();
  const { find, later, become, asked } = given(key);
  expect(await find(key.keyId)).toBe(key);
  become("ended");
  later(4_999);
  expect(await find(key.keyId)).toBe(key);
  expect(asked()).toBe(1);
  later(1);
  expect(await find(key.keyId)).toBe("ended");
});

test("a key ends at its time, also when it was asked for just before", async () => {
  const key = keyOf(newIdentity(), "a", start + 1_000);
  const { find, later, become } = given(key);
  await find(key.keyId);
  become("ended");
  later(1_000);
  expect(await find(key.keyId)).toBe("ended");
});

test("a key that was not there is taken as soon as it is", async () => {
  const key = keyOf();
  const { find, become } = given(null);
  expect(await find(key.keyId)).toBeNull();
  become(key);
  expect(await find(key.keyId)).toBe(key);
});

/** The agents of two keys, each with its stream; when the first key ends, its stream does. */
async function endedStream<Client extends { readonly closed: Promise<number | null> }>(
  open: (place: Place, worker: Identity) => Promise<Client>,
): Promise<Client> {
  const { world, bob, alice } = newWorld();
  const [worker, other] = [newIdentity(), newIdentity()];
  world.signingKeys.set(worker.agentId, keyOf(worker, bob.agentId));
  world.signingKeys.set(other.agentId, keyOf(other, alice.agentId));
  const place = await startGateway(world, { standingMs: 20 });
  const [client, stays] = [await open(place, worker), await connect(place, other)];
  await until(() => world.present.has(bob.agentId) && world.present.has(alice.agentId));
  world.signingKeys.delete(worker.agentId);
  expect(await client.closed).toBe(4401);
  expect(stays.socket.readyState).toBe(WebSocket.OPEN);
  return client;
}

test("a WebSocket that a signing key opened is closed with 4401 when the key ends, another agent's is not", async () => {
  const { frames } = await endedStream(connect);
  expect(frames.at(-1)).toMatchObject({ type: "problem", problem: { code: "signing-key-ended" } });
});

test("so is a stream of events", async () => {
  const client = await endedStream(connectEvents);
  expect(client.named("problem")[0]?.data).toMatchObject({ code: "signing-key-ended" });
});
