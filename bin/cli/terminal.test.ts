import { expect, test } from "vitest";
import { parseWords, readWords } from "./terminal.ts";

const ids = ["-", "--", "-s"].map((start) => start + "a".repeat(43 - start.length));

test.each(ids)("an id that begins with a hyphen is an id: %s", (id) => {
  const { values, positionals } = readWords([id, "text", "--to", id, "--json", `${id}/${id}/x`], {
    to: { type: "string" },
  });
  expect([values.to, values.json]).toEqual([id, true]);
  expect(positionals).toEqual([id, "text", `${id}/${id}/x`]);
  expect(parseWords([`--to=${id}`], { to: { type: "string" } }).values.to).toBe(id);
});

test("what is shorter or longer than an id is an option, and one that there is not is refused", () => {
  for (const word of ["-x", "--bogus", `-${"a".repeat(41)}`, `-${"a".repeat(43)}`, `-${"a".repeat(41)}/x`]) {
    expect(() => readWords([word], {})).toThrow("Unknown option");
  }
});
