import { expect, test } from "vitest";
import { readConfig } from "./config.ts";

const servers = {
  SEALPOST_KAFKA_BROKERS: "127.0.0.1:9092",
  SEALPOST_REGISTRY_URL: "http://127.0.0.1:8081",
  SEALPOST_POSTGRES_URL: "postgres://127.0.0.1/sealpost",
  SEALPOST_REDIS_URL: "redis://127.0.0.1",
};

test("transactions are off, or the consumers that publish in them are named", () => {
  const of = (text?: string) => readConfig({ ...servers, ...(text && { SEALPOST_TRANSACTIONS: text }) }).transactions;
  expect(of()).toEqual([]);
  expect(of("off")).toEqual([]);
  expect(of("acks")).toEqual(["acks"]);
  expect(of("acks, audit")).toEqual(["acks", "audit"]);
});

test("a consumer that cannot publish in transactions is refused, with what would be right", () => {
  for (const wrong of ["on", "acks,queuing", "acks,", ","]) {
    expect(() => readConfig({ ...servers, SEALPOST_TRANSACTIONS: wrong })).toThrow(
      /SEALPOST_TRANSACTIONS.*off, acks, audit or acks,audit/,
    );
  }
});

const kafkaOf = (given: Readonly<Record<string, string>>) => readConfig({ ...servers, ...given }).kafka;

test("Kafka is spoken to plainly, by TLS, and as somebody", () => {
  expect(kafkaOf({ SEALPOST_KAFKA_BROKERS: "a:1,b:2" })).toEqual({ brokers: ["a:1", "b:2"] });
  const account = { SEALPOST_KAFKA_USERNAME: "sealpost", SEALPOST_KAFKA_PASSWORD: "secret" };
  expect(kafkaOf({ ...account, SEALPOST_KAFKA_SASL: "scram-sha-256" })).toEqual({
    brokers: ["127.0.0.1:9092"],
    sasl: { mechanism: "scram-sha-256", username: "sealpost", password: "secret" },
  });
  expect(kafkaOf({ ...account, SEALPOST_KAFKA_SASL: "plain", SEALPOST_KAFKA_TLS: "true" })).toMatchObject({
    tls: {},
    sasl: { mechanism: "plain" },
  });
  const file = import.meta.filename;
  const shown = { SEALPOST_KAFKA_TLS: "true", SEALPOST_KAFKA_CERT_FILE: file, SEALPOST_KAFKA_KEY_FILE: file };
  expect(kafkaOf(shown).tls?.cert).toContain("Kafka is spoken to plainly");
});

test.each([
  [
    "a password that would be shown",
    { SASL: "plain", USERNAME: "a", PASSWORD: "b" },
    "SASL: .*with SEALPOST_KAFKA_TLS",
  ],
  ["a mechanism that there is not", { SASL: "gssapi" }, "SASL: one of plain, scram-sha-256, scram-sha-512"],
  ["a name alone", { USERNAME: "a" }, "SASL: with SEALPOST_KAFKA_USERNAME and SEALPOST_KAFKA_PASSWORD"],
  ["no password", { SASL: "scram-sha-512", USERNAME: "a" }, "SASL: with SEALPOST_KAFKA_USERNAME and"],
  ["a certificate alone", { TLS: "true", CERT_FILE: import.meta.filename }, "CERT_FILE: with SEALPOST_KAFKA_KEY_FILE"],
  ["a file that is not there", { TLS: "true", CERT_FILE: "/no", KEY_FILE: "/no" }, "CERT_FILE: cannot be read: ENOENT"],
  ["a word for TLS", { TLS: "yes" }, "TLS: true or false"],
])("%s is refused, with what would be right", (_name, given, message) => {
  const named = Object.entries(given).map(([name, value]) => [`SEALPOST_KAFKA_${name}`, value]);
  expect(() => kafkaOf(Object.fromEntries(named))).toThrow(new RegExp(`SEALPOST_KAFKA_${message}`));
});

test("what is wrong of Kafka is told with the rest", () => {
  expect(() => readConfig({})).toThrow(/SEALPOST_REGISTRY_URL.*SEALPOST_KAFKA_BROKERS/s);
});
