package eto.scienceworld;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.Map;
import scienceworld.input.InputParser$;
import scienceworld.struct.EnvObject;

/**
 * Caches the names of objects while an action is parsed.
 *
 * <p>The original's parser computes the same names for each of its patterns, and splits them into
 * words every time. As nothing changes during parsing, each result is computed once here. Patched
 * classes call {@link #ofObject} and {@link #tokenize}.
 */
public final class Referents {
  private static final int MAX_TEXTS = 20_000;
  private static final int MAX_TEXT_CHARS = 200;

  private static final MethodHandle ORIGINAL_OF_OBJECT =
      original("getObjectReferents", String[].class, EnvObject.class, EnvObject.class);
  private static final MethodHandle ORIGINAL_TOKENIZE =
      original("tokenize", String[].class, String.class);

  private static final Map<String, String[]> WORDS = new HashMap<>();
  private static final Map<EnvObject, String[]> NAMES = new IdentityHashMap<>();
  private static EnvObject perspective;
  private static boolean remembering;

  private Referents() {}

  /** Declares that the world does not change until {@link #forget}. */
  static void remember() {
    forget();
    Names.beginPass();
    remembering = true;
  }

  static void forget() {
    NAMES.clear();
    perspective = null;
    remembering = false;
  }

  /** Replaces {@code InputParser.getObjectReferents}. */
  public static String[] ofObject(EnvObject object, EnvObject seenFrom) throws Throwable {
    if (!remembering) {
      return (String[]) ORIGINAL_OF_OBJECT.invokeExact(object, seenFrom);
    }
    if (perspective != seenFrom) {
      NAMES.clear();
      perspective = seenFrom;
    }
    String[] names = NAMES.get(object);
    if (names == null) {
      Names known = Names.of(object, seenFrom);
      if (known.parsed == null) {
        known.parsed = (String[]) ORIGINAL_OF_OBJECT.invokeExact(object, seenFrom);
      }
      names = known.parsed;
      NAMES.put(object, names);
    }
    return names;
  }

  /** Replaces {@code InputParser.tokenize}; its callers only read the array. */
  public static String[] tokenize(String text) throws Throwable {
    String[] words = WORDS.get(text);
    if (words == null) {
      words = (String[]) ORIGINAL_TOKENIZE.invokeExact(text);
      if (text.length() <= MAX_TEXT_CHARS) {
        if (WORDS.size() >= MAX_TEXTS) {
          WORDS.clear();
        }
        WORDS.put(text, words);
      }
    }
    return words;
  }

  private static MethodHandle original(String name, Class<?> result, Class<?>... arguments) {
    try {
      return MethodHandles.lookup()
          .findVirtual(
              InputParser$.class,
              name + SimulatorLoader.ORIGINAL,
              MethodType.methodType(result, arguments))
          .bindTo(InputParser$.MODULE$);
    } catch (ReflectiveOperationException error) {
      throw new IllegalStateException(error);
    }
  }
}
