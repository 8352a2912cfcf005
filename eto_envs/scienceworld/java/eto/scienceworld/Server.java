package eto.scienceworld;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Responds to requests, in order.
 *
 * <p>All numbers are big-endian. A frame is its length in bytes (int32) and that many bytes. A
 * request frame contains world (int32), operation (one ASCII letter) and the operation's arguments.
 * The response frame contains a byte 1 and the result, or a byte 0 and a text that describes the
 * error. A text is its length in bytes (int32) and UTF-8. {@code eto_envs/scienceworld/bridge.py}
 * is the client.
 */
final class Server {
  static final int AT_OPERATION = 4;
  static final char REPLAY = 'R';
  private static final char STEP = 'S';
  private static final char DROP = 'X';
  private static final char LOOK = 'l';
  private static final char INVENTORY = 'i';
  private static final char VALID_ACTIONS = 'v';
  private static final char PROGRESS = 'p';
  private static final char DESCRIBE = 'd';
  private static final char GOLD = 'g';
  private static final char VARIATIONS = 'n';

  private final Simulator simulator;
  private final Map<Integer, World> worlds = new HashMap<>();

  Server(boolean fast) throws ReflectiveOperationException {
    simulator = new Simulator(fast);
  }

  /** Responds to one frame. */
  byte[] answer(byte[] frame) throws IOException {
    DataInputStream in = new DataInputStream(new ByteArrayInputStream(frame));
    ByteArrayOutputStream buffer = new ByteArrayOutputStream();
    DataOutputStream out = new DataOutputStream(buffer);
    int world = in.readInt();
    char operation = (char) in.readByte();
    out.writeByte(1);
    try {
      run(world, operation, in, out);
    } catch (RuntimeException | StackOverflowError error) {
      StringWriter trace = new StringWriter();
      error.printStackTrace(new PrintWriter(trace));
      buffer.reset();
      out.writeByte(0);
      writeText(out, trace.toString());
    }
    return buffer.toByteArray();
  }

  private void run(int id, char operation, DataInputStream in, DataOutputStream out)
      throws IOException {
    switch (operation) {
      case REPLAY:
        load(id, in);
        replay(worlds.get(id), in);
        writeState(out, worlds.get(id));
        break;
      case STEP:
        World world = world(id);
        simulator.step(world, readText(in));
        writeState(out, world);
        break;
      case DROP:
        worlds.remove(id);
        break;
      case LOOK:
        writeText(out, simulator.look(world(id)));
        break;
      case INVENTORY:
        writeText(out, simulator.inventory(world(id)));
        break;
      case VALID_ACTIONS:
        writeText(out, String.join("\n", simulator.validActions(world(id))));
        break;
      case PROGRESS:
        writeText(out, simulator.progress(world(id)));
        break;
      case DESCRIBE:
        writeText(out, simulator.describe(readText(in), in.readInt()));
        break;
      case GOLD:
        List<String> actions = simulator.goldActions(readText(in), in.readInt(), readText(in));
        writeText(out, String.join("\n", actions));
        break;
      case VARIATIONS:
        StringBuilder lines = new StringBuilder();
        simulator.variations().forEach((task, count) -> lines.append(task + " " + count + "\n"));
        writeText(out, lines.toString());
        break;
      default:
        throw new IllegalArgumentException("unknown operation " + operation);
    }
  }

  private void load(int id, DataInputStream in) throws IOException {
    worlds.remove(id); // one that does not load leaves no other behind
    World world = new World();
    simulator.load(world, readText(in), in.readInt(), readText(in));
    worlds.put(id, world);
  }

  private void replay(World world, DataInputStream in) throws IOException {
    while (in.available() > 0) {
      simulator.step(world, readText(in));
    }
  }

  private World world(int id) {
    World world = worlds.get(id);
    if (world == null) {
      throw new IllegalStateException("no world " + id + " is loaded");
    }
    return world;
  }

  private static void writeState(DataOutputStream out, World world) throws IOException {
    out.writeDouble(world.score);
    out.writeBoolean(world.completed);
    out.writeInt(world.ticks());
    out.writeInt(world.digest());
    writeText(out, world.observation);
  }

  private static String readText(DataInputStream in) throws IOException {
    return new String(readBytes(in), StandardCharsets.UTF_8);
  }

  private static byte[] readBytes(DataInputStream in) throws IOException {
    byte[] bytes = new byte[in.readInt()];
    in.readFully(bytes);
    return bytes;
  }

  private static void writeText(DataOutputStream out, String text) throws IOException {
    byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
    out.writeInt(bytes.length);
    out.write(bytes);
  }
}
