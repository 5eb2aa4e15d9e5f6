/** API3: members of requests that nobody may set, and of answers that nobody may see. Everything is made from the operation's own declaration. */
import { expect } from "vitest";
import type { Attack, Stage } from "./attack.ts";
import { type Ask, textOf } from "./world.ts";

/** What the service decides, and what an attacker would like to. */
const DECIDED_BY_SERVICE: readonly string[] = [
  ...["status", "owner", "owner_issuer", "owner_subject", "agent_id", "created_at", "seq", "role", "is_admin", "scope"],
  ...["queued_at", "delivered_at", "acknowledged_at", "principal_id", "delegation", "readable_by", "plan", "cost"],
];

type Json = Record<string, unknown>;

/** The body once for every object in it, with that object changed. */
function changedBodies(value: unknown, change: (object: Json) => Json): unknown[] {
  if (Array.isArray(value)) {
    return value.flatMap((item, index) => changedBodies(item, change).map((changed) => value.with(index, changed)));
  }
  if (typeof value !== "object" || value === null) return [];
  const object = value as Json;
  const inside = Object.entries(object).flatMap(([name, member]) =>
    changedBodies(member, change).map((changed) => ({ ...object, [name]: changed })),
  );
  return [change(object), ...inside];
}

function bodyOf(ask: Ask): unknown {
  if (ask.body === undefined) throw new Error("this attack is for calls with a body");
  return ask.body;
}

function withQuery(ask: Ask, text: string): Ask {
  return { ...ask, path: `${ask.path}${ask.path.includes("?") ? "&" : "?"}${text}` };
}

export const bodyAttacks = {
  "a member that there is not, at every depth": async (stage) => {
    for (const body of changedBodies(bodyOf(stage.example()), (object) => ({ ...object, surprise: true }))) {
      const { json } = await stage.refused(["malformed"], { ...stage.example(), body });
      expect(json.field).toMatch(/\/surprise$/);
    }
  },
  "a member that the service decides, such as status, owner or seq": async (stage) => {
    const known = Object.keys(bodyOf(stage.example()) as Json);
    for (const name of DECIDED_BY_SERVICE.filter((one) => !known.includes(one))) {
      for (const value of ["active", true, null, { $ne: null }]) {
        const body = { ...(bodyOf(stage.example()) as Json), [name]: value };
        await stage.refused(["malformed"], { ...stage.example(), body }, {}, name);
      }
    }
  },
  "a member of the prototype": async (stage) => {
    for (const name of ["__proto__", "constructor", "prototype"]) {
      const text = textOf(bodyOf(stage.example()));
      const body = `${text.slice(0, -1)},${JSON.stringify(name)}:{"status":"revoked"}}`;
      await stage.refused(["malformed"], { ...stage.example(), body }, {}, name);
      expect(({} as Json)["status"]).toBeUndefined();
    }
  },
  "members of another type: operators of queries, lists, numbers": async (stage) => {
    for (const [name, value] of Object.entries(bodyOf(stage.example()) as Json)) {
      const others = [{ $gt: "" }, [[]], null, -1e308].filter(
        (other) => typeof other !== typeof value || other === null,
      );
      for (const other of others) {
        const body = { ...(bodyOf(stage.example()) as Json), [name]: other };
        await stage.refused(["malformed", "too-many"], { ...stage.example(), body }, {}, name);
      }
    }
    for (const body of [[], "[]", "null", "1", '"text"', "", "{", "{}{}", "\uFEFF{}"]) {
      if (body === "") continue;
      await stage.refused(["malformed"], { ...stage.example(), body }, {}, JSON.stringify(body));
    }
  },
} satisfies Record<string, Attack>;

export const bodilessAttacks = {
  "a body where none belongs": async (stage) => {
    if (stage.target.route.method === "GET") {
      // fetch sends no body with GET: what it would announce is said here.
      await refusedBody(stage, "POST-like");
      return;
    }
    await stage.refused(["malformed"], { ...stage.example(), body: { status: "active" } });
  },
} satisfies Record<string, Attack>;

async function refusedBody(stage: Stage, because: string): Promise<void> {
  const answer = await stage.world.rawGet(stage.target.port, stage.example(), "{}");
  expect(answer, because).toMatch(/^HTTP\/1\.1 4\d\d .*"code":"(malformed|digest-mismatch|signature-invalid)"/s);
  stage.world.judged += 1;
}

export const propertyAttacks = {
  "a query parameter that there is not, or that stands there twice": async (stage) => {
    await stage.refused(["malformed"], withQuery(stage.example(), "surprise=1"));
    await stage.refused(["malformed"], withQuery(stage.example(), "surprise=1&surprise=2"));
    const [name] = Object.keys(stage.target.route.request.query?.shape ?? {});
    if (name !== undefined) await stage.refused(["malformed"], withQuery(stage.example(), `${name}=1&${name}=2`));
  },
} satisfies Record<string, Attack>;

export const answerAttacks = {
  "the answer has the members that are declared, and no other": async (stage) => {
    const answer = await stage.ask(stage.example());
    const { answers } = stage.target.route;
    if (answer.status === 426) expect(answer.json.code).toBe("upgrade-required");
    else expect(answers[answer.status], `${answer.status} ${answer.text}`).toBeDefined();
    const schema = answers[answer.status]?.schema;
    if (schema !== undefined) {
      expect(schema.safeParse(answer.json), answer.text).toMatchObject({ success: true });
      expect(schema.safeParse({ ...answer.json, private_key: "x" })).toMatchObject({ success: false });
      // Halves of keys that never leave the service stand in no answer.
      expect(answer.text).not.toMatch(/private|secret_key|seed|access_key|ratchet_state|root_key|chain_key/i);
    }
    stage.world.judged += 1;
  },
} satisfies Record<string, Attack>;
