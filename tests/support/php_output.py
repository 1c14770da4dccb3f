"""Sessions as PHP 8.2.36 of Debian 12 wrote them, by the program below, once with each `session.serialize_handler`."""

from __future__ import annotations

PROGRAM = r"""
class Point { public $x = 1; protected $y = [1, 2]; private $z = "q\"}"; }
class Modern { public $a = 5;
  public function __serialize(): array { return ['a' => $this->a]; }
  public function __unserialize(array $d): void {} }
enum Suit: string { case Hearts = 'H'; }
class Old implements Serializable {
  public function serialize() { return "raw }\" data"; }
  public function unserialize($d) {} }
session_start();
$_SESSION['user_id'] = 42;
$_SESSION['name'] = "Zo\u{eb} \u{1f600}";
$_SESSION['latin1'] = "Zo\xeb";
$_SESSION['negative'] = -7;
$_SESSION['big'] = PHP_INT_MAX;
$_SESSION['small'] = PHP_INT_MIN;
$_SESSION['pi'] = 3.141592653589793;
$_SESSION['tiny'] = 1.0E-25;
$_SESSION['huge'] = 1.5e300;
$_SESSION['whole'] = 2.0;
$_SESSION['negzero'] = -0.0;
$_SESSION['inf'] = INF;
$_SESSION['ninf'] = -INF;
$_SESSION['yes'] = true;
$_SESSION['no'] = false;
$_SESSION['nothing'] = null;
$_SESSION['list'] = [1, 'two', [3.5, []]];
$_SESSION['map'] = ['a' => 1, 5 => 'five', '07' => 'text key', '' => 'empty'];
$_SESSION['gap'] = [1 => 'a', 2 => 'b'];
$_SESSION['tricky'] = "a|b;s:1:\"x\";}\0end";
$_SESSION['object'] = new Point;
$_SESSION['modern'] = new Modern;
$_SESSION['enum'] = Suit::Hearts;
$_SESSION['inner'] = ['deep' => [new Point, 1]];
$_SESSION['old'] = new Old;
$_SESSION['date'] = new DateTime('2026-11-30 06:30:00 UTC');
$shared = [1];
$_SESSION['ref'] = [&$shared, &$shared];
$_SESSION['_sf2_attributes'] = ['_security_main' => 'x'];
$_SESSION['last'] = 'end';
if (ini_get('session.serialize_handler') === 'php_serialize') $_SESSION[7] = 'numeric';
"""

#: The variables without objects and references.
VARIABLES = {
    "user_id": 42,
    "name": "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS} \N{GRINNING FACE}",
    "latin1": b"Zo\xeb",
    "negative": -7,
    "big": 2**63 - 1,
    "small": -(2**63),
    "pi": 3.141592653589793,
    "tiny": 1e-25,
    "huge": 1.5e300,
    "whole": 2.0,
    "negzero": -0.0,
    "inf": float("inf"),
    "ninf": float("-inf"),
    "yes": True,
    "no": False,
    "nothing": None,
    "list": [1, "two", [3.5, []]],
    "map": {"a": 1, 5: "five", "07": "text key", "": "empty"},
    "gap": {1: "a", 2: "b"},
    "tricky": 'a|b;s:1:"x";}\0end',
    "_sf2_attributes": {"_security_main": "x"},
    "last": "end",
}

PHP = (
    b'user_id|i:42;name|s:9:"Zo\xc3\xab \xf0\x9f\x98\x80";latin1|s:3:"Zo\xeb";negative|i:-7;big|i:92233720368547'
    b"75807;small|i:-9223372036854775808;pi|d:3.141592653589793;tiny|d:1.0E-25;huge|d:1.5E+"
    b"300;whole|d:2;negzero|d:-0;inf|d:INF;ninf|d:-INF;yes|b:1;no|b:0;nothing|N;list|a:3:{i"
    b':0;i:1;i:1;s:3:"two";i:2;a:2:{i:0;d:3.5;i:1;a:0:{}}}map|a:4:{s:1:"a";i:1;i:5;s:4:"fiv'
    b'e";s:2:"07";s:8:"text key";s:0:"";s:5:"empty";}gap|a:2:{i:1;s:1:"a";i:2;s:1:"b";}tric'
    b'ky|s:17:"a|b;s:1:"x";}\x00end";object|O:5:"Point":3:{s:1:"x";i:1;s:4:"\x00*\x00y";a:2:{i:0;i:1'
    b';i:1;i:2;}s:8:"\x00Point\x00z";s:3:"q"}";}modern|O:6:"Modern":1:{s:1:"a";i:5;}enum|E:11:"Su'
    b'it:Hearts";inner|a:1:{s:4:"deep";a:2:{i:0;O:5:"Point":3:{s:1:"x";i:1;s:4:"\x00*\x00y";a:2:{'
    b'i:0;i:1;i:1;i:2;}s:8:"\x00Point\x00z";s:3:"q"}";}i:1;i:1;}}old|C:3:"Old":11:{raw }" data}da'
    b'te|O:8:"DateTime":3:{s:4:"date";s:26:"2026-11-30 06:30:00.000000";s:13:"timezone_type'
    b'";i:3;s:8:"timezone";s:3:"UTC";}ref|a:2:{i:0;a:1:{i:0;i:1;}i:1;R:56;}_sf2_attributes|'
    b'a:1:{s:14:"_security_main";s:1:"x";}last|s:3:"end";'
)

PHP_SERIALIZE = (
    b'a:30:{s:7:"user_id";i:42;s:4:"name";s:9:"Zo\xc3\xab \xf0\x9f\x98\x80";s:6:"latin1";s:3:"Zo\xeb";s:8:"negat'
    b'ive";i:-7;s:3:"big";i:9223372036854775807;s:5:"small";i:-9223372036854775808;s:2:"pi"'
    b';d:3.141592653589793;s:4:"tiny";d:1.0E-25;s:4:"huge";d:1.5E+300;s:5:"whole";d:2;s:7:"'
    b'negzero";d:-0;s:3:"inf";d:INF;s:4:"ninf";d:-INF;s:3:"yes";b:1;s:2:"no";b:0;s:7:"nothi'
    b'ng";N;s:4:"list";a:3:{i:0;i:1;i:1;s:3:"two";i:2;a:2:{i:0;d:3.5;i:1;a:0:{}}}s:3:"map";'
    b'a:4:{s:1:"a";i:1;i:5;s:4:"five";s:2:"07";s:8:"text key";s:0:"";s:5:"empty";}s:3:"gap"'
    b';a:2:{i:1;s:1:"a";i:2;s:1:"b";}s:6:"tricky";s:17:"a|b;s:1:"x";}\x00end";s:6:"object";O:5'
    b':"Point":3:{s:1:"x";i:1;s:4:"\x00*\x00y";a:2:{i:0;i:1;i:1;i:2;}s:8:"\x00Point\x00z";s:3:"q"}";}s:'
    b'6:"modern";O:6:"Modern":1:{s:1:"a";i:5;}s:4:"enum";E:11:"Suit:Hearts";s:5:"inner";a:1'
    b':{s:4:"deep";a:2:{i:0;O:5:"Point":3:{s:1:"x";i:1;s:4:"\x00*\x00y";a:2:{i:0;i:1;i:1;i:2;}s:8'
    b':"\x00Point\x00z";s:3:"q"}";}i:1;i:1;}}s:3:"old";C:3:"Old":11:{raw }" data}s:4:"date";O:8:"'
    b'DateTime":3:{s:4:"date";s:26:"2026-11-30 06:30:00.000000";s:13:"timezone_type";i:3;s:'
    b'8:"timezone";s:3:"UTC";}s:3:"ref";a:2:{i:0;a:1:{i:0;i:1;}i:1;R:57;}s:15:"_sf2_attribu'
    b'tes";a:1:{s:14:"_security_main";s:1:"x";}s:4:"last";s:3:"end";i:7;s:7:"numeric";}'
)
