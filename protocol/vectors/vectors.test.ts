import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { noblePrimitives } from "../primitives/noble.ts";
import { nodePrimitives } from "../primitives/node.ts";
import { casesOf, runCase, UnknownVectors } from "./run.ts";

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

const FILES = ["identity", "padding", "pqxdh", "prekeys", "ratchet", "repair", "x3dh"];

/** Members on which nothing depends, or whose neighbours are as right. */
const FREE = new Set(["name", "notes", "note", "reason", "description", "now", "error_also"]);

/** Parts in which something is wrong already, and which are refused for that. */
const REFUSED = /^(invalid_identity_keys|refused|malformed_requests|refused_frames)\//;

/** What no signature covers, and lengths that have the same padded length as their neighbour. */
const LOOSE = /\/one_time_prekeys?\/|\/last_resort$|^padme\/\d+\/0$/;

function read(kind: string): { [name: string]: Json } {
  return JSON.parse(readFileSync(join(import.meta.dirname, `${kind}.json`), "utf8"));
}

test("every vector file of this folder is run", () => {
  const found = readdirSync(import.meta.dirname).filter((name) => name.endsWith(".json"));
  expect(found.sort()).toEqual(FILES.map((kind) => `${kind}.json`));
});

describe.each(FILES)("%s vectors", (kind) => {
  const cases = casesOf(read(kind));
  test("there are some", () => {
    expect(cases.length).toBeGreaterThan(5);
  });
  for (const one of cases) {
    const define = one.run === undefined ? test.skip : test;
    define.each([
      ["node", nodePrimitives],
      ["noble", noblePrimitives],
    ])(`${one.name} (%s)`, (name, primitives) => {
      expect(runCase(one, { [name]: primitives })).toEqual({ name: one.name, outcome: "passed" });
    });
  }
});

describe("the runner notices whatever is changed", () => {
  const ratchet = read("ratchet");
  const { transcripts: all } = ratchet;
  const short = ["skipped-keys-expire", "two-starts-of-one-side", "last-resort-twice"];
  const transcripts = (all as { [name: string]: Json }[]).filter(({ name }) => short.includes(name as string));
  const files: [string, Json, number][] = [
    ["identity", read("identity"), 1],
    ["padding", read("padding"), 7],
    ["prekeys", read("prekeys"), 2],
    ["x3dh", read("x3dh"), 2],
    ["pqxdh", read("pqxdh"), 2],
    ["repair", read("repair"), 1],
    ["ratchet", { ...ratchet, transcripts }, 23],
  ];
  test.each(files)("in the %s vectors", (_kind, file, every) => {
    const leaves = leavesOf(file, []).filter((path) => isBinding(file, path));
    const sample = leaves.filter((_, index) => index % every === 0);
    expect(sample.length).toBeGreaterThan(20);
    const unnoticed = sample.filter((path) => !isNoticed(change(file, path)));
    expect(unnoticed.map((path) => path.join("/"))).toEqual([]);
  });
});

test("a case that cannot be run is skipped by its name, and is no success", () => {
  expect(runCase({ name: "of a later version" }, { node: nodePrimitives })).toEqual({
    name: "of a later version",
    outcome: "skipped",
  });
});

test("a case without a check fails", () => {
  const nothing = { name: "nothing", run: () => {} };
  expect(runCase(nothing, { node: nodePrimitives }).outcome).toBe("failed");
});

test.each([null, [], {}, { format: "sealpost-vectors/1", protocol: 1, kind: "padding" }])(
  "%j is no vector file",
  (json) => {
    expect(() => casesOf(json)).toThrow(UnknownVectors);
  },
);

function isBinding(file: Json, path: (string | number)[]): boolean {
  const text = path.join("/");
  if (path.some((name) => FREE.has(String(name))) || REFUSED.test(text) || LOOSE.test(text)) return false;
  const part = path.slice(0, 2).reduce<Json>((value, name) => (value as { [name: string]: Json })[name] as Json, file);
  const { valid = true, matches = true } = part as { [name: string]: Json };
  return (valid === true && matches === true) || ["valid", "matches"].includes(String(path.at(-1)));
}

function isNoticed(file: Json): boolean {
  try {
    return casesOf(file).some((one) => runCase(one, { node: nodePrimitives }).outcome === "failed");
  } catch (error) {
    return error instanceof UnknownVectors;
  }
}

function leavesOf(value: Json, path: (string | number)[]): (string | number)[][] {
  if (typeof value !== "object" || value === null) return [path];
  return Object.entries(value).flatMap(([name, member]) => leavesOf(member, [...path, name]));
}

function change(value: Json, [name, ...rest]: (string | number)[]): Json {
  if (name === undefined) return changeLeaf(value);
  const members = value as { [name: string]: Json };
  const changed = change(members[name] as Json, rest);
  return Array.isArray(value)
    ? value.map((item, i) => (i === Number(name) ? changed : item))
    : { ...members, [name]: changed };
}

function changeLeaf(value: Json): Json {
  if (typeof value === "number") return value + 1;
  if (typeof value === "boolean") return !value;
  if (typeof value !== "string") return "AAAA";
  // Not the first character: X25519 ignores some bits of a private key's first byte.
  return `${value.slice(0, 2)}${value[2] === "A" ? "B" : "A"}${value.slice(3)}`;
}
