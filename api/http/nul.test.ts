/** PostgreSQL's text holds no NUL: one that got past the schemas would fail the row, or the step, that it is written in. */
import { expect, test } from "vitest";
import { BatchRefusal } from "../problem.ts";
import { envelope } from "./message-schemas.ts";
import { servedRoutes, servedToOperators } from "./openapi.ts";
import { validated } from "./validation.ts";

/** Content: sealed before anything stores it, and its type is whatever the sender calls it. */
const CONTENT = ["/messages/0/content_type"];

const agent = "Zk1xv0Tn3oY3rW1mZ8v1Rk3eFhQx0mC5s2b7uJ4dN6A";
const id = "0198c0de-7a11-7b2c-9d3e-4f5061728394";
const time = "2025-08-19T05:47:42.481Z";
const zeros = (bytes: number) => Buffer.alloc(bytes).toString("base64url");
/** Of bodies that show none themselves. */
const examples: Readonly<Record<string, unknown>> = {
  "POST /messaging/send": { envelopes: [envelope.meta()?.["example"]] },
  "POST /messaging/acknowledge": { items: [{ sender_id: agent, message_id: id, refused: "malformed" }] },
  "POST /messaging/retry-requests": {
    item_id: id,
    retry: {
      ...{ kind: "retry", sender_id: agent, recipient_id: agent, message_id: id, session_id: zeros(16) },
      ...{ dh_public_key: zeros(32), time, signature: zeros(64) },
    },
  },
  "PUT /messaging/signing-keys/{key_id}": {
    ...{ public_key: zeros(32), not_after: time, certificate: zeros(64), proof: zeros(64) },
  },
  "POST /ops/audit/replays": {
    ...{ state: "done", from: time, to: time, agents: [agent], actions: ["agent.*"], format: "csv", records: 1 },
    manifest_sha256: "0".repeat(64),
  },
};

/** Every text in the value, by its pointer. */
function textsOf(value: unknown, pointer = ""): readonly string[] {
  if (typeof value === "string") return [pointer];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) => textsOf(inner, `${pointer}/${name}`));
}

/** A copy in which the text at the pointer has a NUL at its end. */
function withNul(value: unknown, pointer: string, at = ""): unknown {
  if (at === pointer) return `${value}\0`;
  if (Array.isArray(value)) return value.map((item, index) => withNul(item, pointer, `${at}/${index}`));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [name, withNul(inner, pointer, `${at}/${name}`)]),
  );
}

const bodies = [...servedRoutes, ...servedToOperators].flatMap(({ method, path, request }) => {
  const { body } = request;
  const name = `${method} ${path}`;
  return body === undefined ? [] : [{ name, body, example: body.meta()?.["example"] ?? examples[name] }];
});

test("a NUL in any text of any body is refused by name, but in a content's type", () => {
  const taken: string[] = [];
  let tried = 0;
  for (const { name, body, example } of bodies) {
    expect(() => validated(body, example), `${name} has an example that holds`).not.toThrow();
    for (const pointer of textsOf(example)) {
      tried++;
      try {
        validated(body, withNul(example, pointer));
        taken.push(pointer);
      } catch (error) {
        expect(error, name).toBeInstanceOf(BatchRefusal);
        expect(
          (error as BatchRefusal).faults.map((fault) => fault.pointer),
          `${name} ${pointer}`,
        ).toContain(pointer);
      }
    }
  }
  expect(tried).toBeGreaterThan(40);
  expect(taken).toEqual(CONTENT);
});
