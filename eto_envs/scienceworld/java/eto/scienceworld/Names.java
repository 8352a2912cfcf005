package eto.scienceworld;

import java.util.Arrays;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.Map;
import scala.Option;
import scala.collection.immutable.Set;
import scienceworld.objects.portal.Portal;
import scienceworld.struct.EnvObject;

/**
 * The names of objects, computed once for each kind of object in each kind of container.
 *
 * <p>The original composes the names of an object ("cup", "cup in kitchen", "cup on kitchen") every
 * time they are needed. They depend only on the words of the object and of its container, which
 * serve as the key of a cache.
 */
final class Names {
  private static final int MAX_ENTRIES = 20_000;

  /** An object's words and its container's, in the order the simulator gives them. */
  private static final class Words {
    private final String[] own;
    private final String[] containers; // empty without a container

    Words(String[] own, String[] containers) {
      this.own = own;
      this.containers = containers;
    }

    @Override
    public boolean equals(Object other) {
      return other instanceof Words
          && Arrays.equals(own, ((Words) other).own)
          && Arrays.equals(containers, ((Words) other).containers);
    }

    @Override
    public int hashCode() {
      return 31 * Arrays.hashCode(own) + Arrays.hashCode(containers);
    }
  }

  private static final String[] NONE = {};
  private static final Map<Words, Names> KNOWN = new HashMap<>();
  private static final Map<String, Integer> NUMBERS = new HashMap<>();
  private static final Map<EnvObject, String[]> CONTAINERS = new IdentityHashMap<>();

  /** The result of {@code InputParser.getObjectReferents}; null until it is first needed. */
  String[] parsed;

  /** The names in alphabetical order, as numbers: equal names have equal numbers. */
  final int[] numbers;

  private Names(int[] numbers) {
    this.numbers = numbers;
  }

  /** The number of distinct names so far. */
  static int count() {
    return NUMBERS.size();
  }

  /** Starts a pass over objects in an unchanging world: containers are only looked up once. */
  static void beginPass() {
    CONTAINERS.clear();
    if (KNOWN.size() > MAX_ENTRIES) {
      KNOWN.clear();
      NUMBERS.clear();
    }
  }

  /** The names of an object, as seen from a place. */
  static Names of(EnvObject object, EnvObject seenFrom) {
    Words words = new Words(toArray(ownWords(object, seenFrom)), containerWords(object));
    Names names = KNOWN.get(words);
    if (names == null) {
      names = new Names(numbersOf(object.getReferentsWithContainers(seenFrom)));
      KNOWN.put(words, names);
    }
    return names;
  }

  private static Set<String> ownWords(EnvObject object, EnvObject seenFrom) {
    if (object instanceof Portal) {
      return ((Portal) object).getReferents(seenFrom);
    }
    return object.getReferents();
  }

  private static String[] containerWords(EnvObject object) {
    Option<EnvObject> container = object.getContainer();
    if (container.isEmpty()) {
      return NONE;
    }
    String[] words = CONTAINERS.get(container.get());
    if (words == null) {
      words = toArray(container.get().getReferents());
      CONTAINERS.put(container.get(), words);
    }
    return words;
  }

  private static int[] numbersOf(Set<String> names) {
    String[] sorted = toArray(names);
    Arrays.sort(sorted);
    int[] numbers = new int[sorted.length];
    for (int i = 0; i < sorted.length; i++) {
      Integer known = NUMBERS.putIfAbsent(sorted[i], NUMBERS.size());
      numbers[i] = known == null ? NUMBERS.size() - 1 : known;
    }
    return numbers;
  }

  private static String[] toArray(Set<String> words) {
    String[] array = new String[words.size()];
    words.copyToArray(array);
    return array;
  }
}
