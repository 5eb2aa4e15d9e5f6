import { readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { createMetrics } from "./metrics.ts";

const page = readFileSync(path.join(import.meta.dirname, "../docs/metrics.md"), "utf8");

interface Described {
  readonly name: string;
  readonly help: string;
  readonly labelNames?: readonly string[];
}

const own = (createMetrics().registry.getMetricsAsArray() as unknown as readonly Described[]).filter(
  ({ name }) => !/^(process|nodejs)_/.test(name),
);

test("docs/metrics.md names every metric as it is, and no other", () => {
  const rows = page.split("\n").filter((line) => /^\| `(messaging|sealpost)_\w+` \|/.test(line));
  const expected = own.map((metric) => {
    const labels = (metric.labelNames ?? []).map((label) => `\`${label}\``).join(", ");
    return `| \`${metric.name}\` | ${metric.constructor.name.toLowerCase()} | ${labels} | ${metric.help} |`;
  });
  expect(expected.length).toBeGreaterThan(30);
  expect(rows.toSorted()).toEqual(expected.toSorted());
});

test("what alerts ask for is there, with its labels", () => {
  const alerts = page.slice(page.indexOf("## Worth an alert"), page.indexOf("## All of them"));
  const asked = [...alerts.matchAll(/\b((?:messaging|sealpost)_\w+)(?:\{(\w+))?/g)];
  expect(asked.length).toBeGreaterThan(10);
  for (const [, name = "", label] of asked) {
    const metric = own.find((one) => one.name === name);
    expect(metric, name).toBeDefined();
    if (label !== undefined) expect(metric?.labelNames, name).toContain(label);
  }
});
