/** Problem documents as the fakes of the service answer them. */
export function problem(
  status: number,
  code: string,
  more: Record<string, unknown> = {},
): [number, Record<string, unknown>] {
  return [status, { type: `https://sealpost.dev/problems/${code}`, title: code, status, code, detail: code, ...more }];
}
