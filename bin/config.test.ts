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
