/**
 * Avro types for the hot path: `avsc`, taught four things.
 *
 * - Field names become camelCase, so that a decoded value is the TypeScript value and nothing is mapped. Avro's binary form holds no
 *   names, so the bytes stay the same.
 * - `uuid` on `fixed(16)` is lower-case text.
 * - `bytes` accepts any `Uint8Array` and comes out as a view of the record it was read from, not as a copy.
 * - An array whose count cannot fit into the bytes that are left is refused before room is made for it: five bytes of poison must
 *   not cost gigabytes.
 */
import avro from "avsc";

/** avsc's cursor over a buffer: the part of it that types use. */
interface Tap {
  readonly buf: Buffer;
  pos: number;
  readLong(): number;
  skipLong(): void;
  writeLong(n: number): void;
  writeFixed(bytes: Buffer, length: number): void;
}

type ReadHook = (value: unknown, type: avro.Type) => void;

/** A schema as JSON: a name, a union, or an object with a type. */
type Json = string | readonly Json[] | { readonly [key: string]: unknown };

/** Makes the type of a schema, given as JSON text. Throws when it is not a schema. */
export function avroType(schemaText: string): avro.Type {
  const schema = camelCased(JSON.parse(schemaText) as Json);
  return avro.Type.forSchema(schema as avro.Schema, {
    logicalTypes: { uuid: UuidType },
    assertLogicalTypes: true,
    omitRecordMethods: true,
    wrapUnions: "never",
    typeHook,
  });
}

function camelCased(schema: Json): Json {
  if (typeof schema === "string") return schema;
  if (Array.isArray(schema)) return schema.map(camelCased);
  const object = schema as { readonly [key: string]: unknown };
  const renamed: Record<string, unknown> = { ...object };
  for (const inner of ["type", "items", "values"]) {
    if (object[inner] !== undefined) renamed[inner] = camelCased(object[inner] as Json);
  }
  if (Array.isArray(object["fields"])) {
    renamed["fields"] = object["fields"].map((field: { readonly [key: string]: unknown }) => ({
      ...(camelCased(field) as object),
      name: camelCase(field["name"] as string),
      ...(Array.isArray(field["aliases"]) && { aliases: field["aliases"].map(camelCase) }),
    }));
  }
  return renamed;
}

function camelCase(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function typeHook(schema: avro.Schema, options: avro.ForSchemaOptions): avro.Type | undefined {
  const typeName = typeof schema === "string" ? schema : (schema as { type?: unknown }).type;
  if (typeName === "bytes") return new SharedBytes();
  if (typeName === "array") return new BoundedArray(schema as never, options as never);
  return undefined;
}

class SharedBytes extends (avro.types.BytesType as unknown as new () => avro.Type) {
  static {
    // The prefix makes a union ask `_check`; of a plain `bytes` it would take nothing but a `Buffer`.
    Object.assign(SharedBytes.prototype, { typeName: "abstract:bytes", _concreteTypeName: "bytes" });
  }

  _update(resolver: { _read?: unknown }, writer: avro.Type): void {
    if (writer instanceof SharedBytes) resolver._read = this._read;
  }

  _check(value: unknown, _flags: unknown, hook?: ReadHook): boolean {
    const fits = value instanceof Uint8Array;
    if (!fits) hook?.(value, this);
    return fits;
  }

  _read(tap: Tap): Buffer | undefined {
    const length = tap.readLong();
    const start = tap.pos;
    if (length < 0 || start + length > tap.buf.length) throw new Error("bytes reach beyond the end");
    tap.pos = start + length;
    return tap.buf.subarray(start, tap.pos);
  }

  _write(tap: Tap, value: unknown): void {
    if (!(value instanceof Uint8Array)) throw new Error("bytes expected");
    tap.writeLong(value.length);
    if (value.length > 0) tap.writeFixed(asBuffer(value), value.length);
  }
}

class BoundedArray extends (avro.types.ArrayType as unknown as new (schema: never, options: never) => avro.Type) {
  declare readonly itemsType: { _read(tap: Tap): unknown };

  /** Also a resolver's `_read`, which is why it uses nothing but `itemsType`. */
  _read(tap: Tap): unknown[] {
    const items: unknown[] = [];
    for (;;) {
      let count = tap.readLong();
      if (count === 0) return items;
      if (count < 0) {
        count = -count;
        tap.skipLong();
      }
      // Every item of our schemas takes at least one byte.
      if (count > tap.buf.length - tap.pos) throw new Error("array longer than its bytes");
      for (let i = 0; i < count; i++) items.push(this.itemsType._read(tap));
    }
  }
}

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

class UuidType extends avro.types.LogicalType {
  protected override _fromValue(bytes: Buffer): string {
    const hex = bytes.toString("hex");
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  }

  protected override _toValue(text: unknown): Buffer | undefined {
    if (typeof text !== "string" || !uuidPattern.test(text)) return undefined;
    return Buffer.from(text.replaceAll("-", ""), "hex");
  }

  protected override _resolve(writer: avro.Type): ((value: never) => string) | undefined {
    if (avro.Type.isType(writer, "logical:uuid")) return (value: string) => value;
    const fixed = writer as avro.Type & { readonly size?: number };
    if (avro.Type.isType(writer, "fixed") && fixed.size === 16) return (value: Buffer) => this._fromValue(value);
    return undefined;
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
