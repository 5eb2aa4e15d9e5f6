/**
 * The door to the schema registry (Confluent's API).
 *
 * Promise: what leaves this file is `Unavailable("registry")` or `Refusal("schema-mismatch")`, its `field` the subject.
 */
import { COMPATIBILITY, SchemaRegistry, SchemaType } from "@kafkajs/confluent-schema-registry";
import { Refusal, Unavailable } from "../protocol/refusal.ts";

export interface Registry {
  /** The id of a schema under a subject, registered if it is missing. The subject's compatibility becomes FULL_TRANSITIVE. */
  register(subject: string, schemaText: string): Promise<number>;
  /** The id of a schema that must be registered. */
  lookUp(subject: string, schemaText: string): Promise<number>;
  /** A schema's text; null when the registry has no such id. */
  find(id: number): Promise<string | null>;
}

/** The log is read by programs older and newer than the writer, from its beginning: every version reads every other. */
const compatibility = COMPATIBILITY.FULL_TRANSITIVE;
const answerMsMax = 5_000;

/** A name and a password in the URL go out as basic authentication. */
export function openRegistry(givenUrl: string): Registry {
  const { url, auth } = withoutCredentials(givenUrl);
  const client = new SchemaRegistry({ host: url, retry: { retries: 2 }, ...(auth !== null && { auth }) });
  return {
    async register(subject, schemaText) {
      try {
        const registered = await client.register(
          { type: SchemaType.AVRO, schema: schemaText },
          { subject, compatibility },
        );
        return registered.id;
      } catch (error) {
        throw faultOf(error, subject, "evolve the schema so that every version reads every other");
      }
    },

    async lookUp(subject, schemaText) {
      try {
        return await client.getRegistryIdBySchema(subject, { type: SchemaType.AVRO, schema: schemaText });
      } catch (error) {
        throw faultOf(error, subject, "register the schemas of this version first");
      }
    },

    // The library's own lookup answers a parsed type, without the names and logical types of the text.
    async find(id) {
      let response: Response;
      try {
        response = await fetch(new URL(`${url.replace(/\/$/, "")}/schemas/ids/${id}`), {
          signal: AbortSignal.timeout(answerMsMax),
          headers: auth === null ? {} : { authorization: basicOf(auth) },
        });
        if (response.status === 404) return null;
        if (!response.ok) throw new Error("the registry answered with an error");
        const { schema } = (await response.json()) as { schema?: unknown };
        return typeof schema === "string" ? schema : null;
      } catch (error) {
        throw new Unavailable("registry", error);
      }
    },
  };
}

type Credentials = { username: string; password: string };

function withoutCredentials(text: string): { readonly url: string; readonly auth: Credentials | null } {
  const url = new URL(text);
  if (url.username === "") return { url: text, auth: null };
  const auth = { username: decodeURIComponent(url.username), password: decodeURIComponent(url.password) };
  url.username = "";
  url.password = "";
  return { url: url.href, auth };
}

function basicOf({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}

/** The library's errors carry the HTTP status; a compatibility that differs from ours has a class of its own and none. */
function faultOf(error: unknown, subject: string, fix: string): Error {
  const { status, name } = error as { readonly status?: unknown; readonly name?: unknown };
  const refused =
    name === "ConfluentSchemaRegistryCompatibilityError" ||
    (typeof status === "number" && [404, 409, 422].includes(status)) ||
    name === "ConfluentSchemaRegistryError";
  return refused ? new Refusal("schema-mismatch", { field: subject, fix }) : new Unavailable("registry", error);
}
