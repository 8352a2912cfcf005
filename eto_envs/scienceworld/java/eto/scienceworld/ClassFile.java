package eto.scienceworld;

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/**
 * A class file to which methods can be added and whose methods can be renamed.
 *
 * <p>Implements as much of the format (JVM specification, chapter 4) as is needed to replace
 * methods of the simulator while its classes are loaded; patched classes are never stored.
 */
final class ClassFile {
  private static final int CONSTANT_COUNT = 8; // after the magic number and the versions
  private static final int UTF8 = 1;
  private static final int INTEGER = 3;
  private static final int FLOAT = 4;
  private static final int LONG = 5;
  private static final int DOUBLE = 6;
  private static final int CLASS = 7;
  private static final int STRING = 8;
  private static final int METHOD = 10;
  private static final int NAME_AND_TYPE = 12;
  private static final int METHOD_HANDLE = 15;
  private static final int METHOD_TYPE = 16;

  private final ByteBuffer bytes;
  private final String[] texts; // by constant index; null where a constant is no text
  private final int constantsEnd;
  private final int thisClass;
  private final int methodsStart; // where the number of methods stands
  private final int methodsEnd;
  private final List<byte[]> newConstants = new ArrayList<>();
  private final List<byte[]> newMethods = new ArrayList<>();

  ClassFile(byte[] original) throws IOException {
    bytes = ByteBuffer.wrap(original.clone());
    texts = new String[u2(CONSTANT_COUNT)];
    int position = CONSTANT_COUNT + 2;
    for (int index = 1; index < texts.length; index++) {
      int tag = bytes.get(position);
      if (tag == UTF8) {
        texts[index] =
            new String(bytes.array(), position + 3, u2(position + 1), StandardCharsets.UTF_8);
      } else if (tag == LONG || tag == DOUBLE) {
        index++; // these count twice
      }
      position += constantSize(tag, position);
    }
    constantsEnd = position;
    thisClass = u2(position + 2);
    position += 6;
    position += 2 + 2 * u2(position); // interfaces
    position = skipMembers(position); // fields
    methodsStart = position;
    methodsEnd = skipMembers(position);
  }

  /** Renames a method; calls to the old name then reach a method added under that name. */
  void rename(String name, String type, String newName) throws IOException {
    int position = methodsStart + 2;
    for (int left = u2(methodsStart); left > 0; left--) {
      if (name.equals(textAt(position + 2)) && type.equals(textAt(position + 4))) {
        bytes.putShort(position + 2, (short) text(newName));
        return;
      }
      position = skipMember(position);
    }
    throw new IOException("no method " + name + type);
  }

  /** The index of a constant for a method of another class; null is this class itself. */
  int method(String owner, String name, String type) throws IOException {
    int ownerIndex = owner == null ? thisClass : constant(CLASS, text(owner));
    return constant(METHOD, ownerIndex, constant(NAME_AND_TYPE, text(name), text(type)));
  }

  /** Adds a method; its code must not contain jumps, so that no stack map is required. */
  void add(int access, String name, String type, int maxStack, int maxLocals, byte[] code)
      throws IOException {
    ByteArrayOutputStream buffer = new ByteArrayOutputStream();
    DataOutputStream out = new DataOutputStream(buffer);
    out.writeShort(access);
    out.writeShort(text(name));
    out.writeShort(text(type));
    out.writeShort(1); // one attribute
    out.writeShort(text("Code"));
    out.writeInt(12 + code.length);
    out.writeShort(maxStack);
    out.writeShort(maxLocals);
    out.writeInt(code.length);
    out.write(code);
    out.writeShort(0); // no exception handlers
    out.writeShort(0); // no attributes
    newMethods.add(buffer.toByteArray());
  }

  /** The class file with all changes. */
  byte[] toBytes() throws IOException {
    ByteArrayOutputStream buffer = new ByteArrayOutputStream();
    DataOutputStream out = new DataOutputStream(buffer);
    byte[] old = bytes.array();
    out.write(old, 0, CONSTANT_COUNT);
    out.writeShort(texts.length + newConstants.size());
    out.write(old, CONSTANT_COUNT + 2, constantsEnd - CONSTANT_COUNT - 2);
    for (byte[] constant : newConstants) {
      out.write(constant);
    }
    out.write(old, constantsEnd, methodsStart - constantsEnd);
    out.writeShort(u2(methodsStart) + newMethods.size());
    out.write(old, methodsStart + 2, methodsEnd - methodsStart - 2);
    for (byte[] method : newMethods) {
      out.write(method);
    }
    out.write(old, methodsEnd, old.length - methodsEnd);
    return buffer.toByteArray();
  }

  /** The text to which a member's name or type refers; null for a name that was added here. */
  private String textAt(int position) {
    int index = u2(position);
    return index < texts.length ? texts[index] : null;
  }

  private int text(String value) throws IOException {
    ByteArrayOutputStream buffer = new ByteArrayOutputStream();
    DataOutputStream out = new DataOutputStream(buffer);
    out.writeByte(UTF8);
    out.writeUTF(value);
    return keep(buffer.toByteArray());
  }

  private int constant(int tag, int... indices) {
    ByteBuffer buffer = ByteBuffer.allocate(1 + 2 * indices.length).put((byte) tag);
    for (int index : indices) {
      buffer.putShort((short) index);
    }
    return keep(buffer.array());
  }

  private int keep(byte[] constant) {
    newConstants.add(constant);
    return texts.length + newConstants.size() - 1;
  }

  private int u2(int position) {
    return Short.toUnsignedInt(bytes.getShort(position));
  }

  private int constantSize(int tag, int position) throws IOException {
    switch (tag) {
      case UTF8:
        return 3 + u2(position + 1);
      case LONG:
      case DOUBLE:
        return 9;
      case CLASS:
      case STRING:
      case METHOD_TYPE:
        return 3;
      case METHOD_HANDLE:
        return 4;
      case INTEGER:
      case FLOAT:
        return 5;
      default:
        if (tag < 9 || tag > 18) {
          throw new IOException("unknown constant tag " + tag);
        }
        return 5; // fields, methods, names and types, dynamic constants
    }
  }

  private int skipMembers(int position) {
    int end = position + 2;
    for (int left = u2(position); left > 0; left--) {
      end = skipMember(end);
    }
    return end;
  }

  private int skipMember(int position) {
    int end = position + 8;
    for (int left = u2(position + 6); left > 0; left--) {
      end += 6 + bytes.getInt(end + 2);
    }
    return end;
  }
}
