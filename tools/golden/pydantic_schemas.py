"""Writes tests/golden/schemas/pydantic.jsonl: JSON schemas that pydantic makes of models with all of its kinds of types, one a line.

    python tools/golden/pydantic_schemas.py > tests/golden/schemas/pydantic.jsonl

and, with `--check A.jsonl`, reads answers {"name", "text"} and validates each by the model of that name. Made with pydantic 2.12.5.
"""

import json
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Dict, Generic, List, Literal, NamedTuple, Optional, Set, Tuple, TypeVar, Union
from uuid import UUID

import pydantic
from pydantic import (
    AnyUrl, AwareDatetime, BaseModel, Base64Bytes, ByteSize, ConfigDict, Discriminator, Field, FutureDate, HttpUrl, IPvAnyAddress,
    Json, NaiveDatetime, NegativeInt, NonNegativeFloat, PastDatetime, PositiveInt, RootModel, SecretStr, StrictBool, StrictInt,
    StringConstraints, Tag, UUID4, conint, conlist, conset, constr,
)
from typing_extensions import TypedDict


class Color(Enum):
    red = "red"
    blue = "light blue"


class Level(IntEnum):
    low = 1
    high = 2


class One(Enum):
    only = "only"


class Point(BaseModel):
    x: int = Field(ge=-99, le=99)
    y: int = Field(ge=-99, le=99)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog", "hound"]
    good: bool = True


class Person(NamedTuple):
    name: str
    age: int


class Movie(TypedDict, total=False):
    title: str
    year: int


class Node(BaseModel):
    value: int
    next: Optional["Node"] = None


class Tree(BaseModel):
    name: Annotated[str, Field(max_length=3)]
    children: Annotated[List["Tree"], Field(max_length=2)] = []


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: bool
    b: Optional[Point] = None


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: bool


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


class Documented(BaseModel):
    """A model with words for people."""

    model_config = ConfigDict(title="Named", json_schema_extra={"examples": [{"a": 1}]})
    a: int = Field(1, title="A", description="Says \"a\".", examples=[1, 2], deprecated=True)
    b: str = Field("x", alias="the-b", max_length=4)


Short = Annotated[str, StringConstraints(max_length=5)]
Pet = Annotated[Union[Cat, Dog], Field(discriminator="kind")]


def tag_of(value):
    return "int" if isinstance(value, int) else "str"


TYPES = {
    "integer": int,
    "number": float,
    "text": Short,
    "boolean": bool,
    "nothing": None,
    "anything": Any,
    "strict_integer": StrictInt,
    "strict_boolean": StrictBool,
    "positive": PositiveInt,
    "negative": NegativeInt,
    "not_negative": NonNegativeFloat,
    "bounded": conint(ge=-5, lt=12, multiple_of=3),
    "bounded_float": Annotated[float, Field(gt=0, le=1.5)],
    "decimal": Decimal,
    "decimal_digits": Annotated[Decimal, Field(max_digits=5, decimal_places=2)],
    "decimal_places": Annotated[Decimal, Field(decimal_places=3)],
    "decimal_max_digits": Annotated[Decimal, Field(max_digits=4)],
    "decimal_bounded": Annotated[Decimal, Field(gt=0, lt=100)],
    "datetime": datetime,
    "aware": AwareDatetime,
    "naive": NaiveDatetime,
    "past": PastDatetime,
    "date": date,
    "future": FutureDate,
    "time": time,
    "duration": timedelta,
    "uuid": UUID,
    "uuid4": UUID4,
    "pattern": constr(pattern=r"^[A-Z]{2}-\d{3}$"),
    "pattern_open": constr(pattern=r"\d{2}", max_length=12),
    "pattern_word": constr(pattern=r"^\w+\s\S$", max_length=12),
    "pattern_choice": constr(pattern=r"^(?:yes|no|may\.be)$"),
    "length": constr(min_length=2, max_length=4),
    "stripped": constr(strip_whitespace=True, to_lower=True, min_length=1, max_length=9),
    "bytes": Annotated[bytes, Field(max_length=8)],
    "base64": Base64Bytes,
    "secret": SecretStr,
    "json": Json,
    "path": Path,
    "byte_size": ByteSize,
    "url": AnyUrl,
    "http": HttpUrl,
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "ip_any": IPvAnyAddress,
    "network": IPv4Network,
    "literal": Literal["a", 1, True, None],
    "literal_one": Literal["only"],
    "enum": Color,
    "enum_int": Level,
    "enum_one": One,
    "optional": Optional[Short],
    "optional_nested": Optional[Point],
    "union": Union[int, Short, List[bool]],
    "list": List[int],
    "list_bounded": conlist(int, min_length=1, max_length=3),
    "set": Set[int],
    "set_bounded": conset(Color, min_length=1, max_length=2),
    "frozenset": Annotated[frozenset[Short], Field(max_length=3)],
    "tuple": Tuple[int, Short, bool],
    "tuple_open": Tuple[int, ...],
    "tuple_empty": Tuple[()],
    "named_tuple": Person,
    "typed_dict": Movie,
    "dict": Dict[str, int],
    "dict_any": dict,
    "dict_int_keys": Dict[int, Short],
    "dict_enum_keys": Dict[Color, int],
    "dict_literal_keys": Dict[Literal["a", "b"], bool],
    "dict_pattern_keys": Dict[constr(pattern=r"^k_[0-9]{1,3}$"), int],
    "dict_length_keys": Dict[constr(min_length=1, max_length=4), int],
    "dict_uuid_keys": Dict[UUID, bool],
    "dict_date_keys": Dict[date, bool],
    "dict_bounded": Annotated[Dict[str, int], Field(min_length=1, max_length=2)],
    "nested": Point,
    "nested_dict": Dict[str, List[Point]],
    "recursive": Node,
    "recursive_tree": Tree,
    "discriminated": Pet,
    "discriminated_list": List[Pet],
    "discriminated_callable": Annotated[
        Union[Annotated[int, Tag("int")], Annotated[Short, Tag("str")]], Discriminator(tag_of)
    ],
    "union_models": Union[Cat, Point],
    "extra_forbid": Strict,
    "extra_allow": Extra,
    "generic": Box[Point],
    "documented": Documented,
}


class Order(BaseModel):
    id: UUID
    placed: datetime
    total: Annotated[Decimal, Field(max_digits=8, decimal_places=2)]
    lines: conlist(Point, min_length=1, max_length=3)
    tags: Set[Literal["new", "old"]] = set()
    notes: Dict[str, Optional[str]] = {}
    pet: Optional[Pet] = None


def models():
    for name, kind in TYPES.items():
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield name, kind
        else:
            yield name, pydantic.create_model(name, value=(kind, ...))
    yield "root_list", RootModel[conlist(Point, max_length=2)]
    yield "root_dict", RootModel[Dict[str, bool]]
    yield "order", Order


def main():
    if sys.argv[1:2] == ["--check"]:
        known, failed = dict(models()), 0
        answers = [json.loads(line) for line in open(sys.argv[2])]
        for answer in answers:
            try:
                known[answer["name"]].model_validate_json(answer["text"])
            except pydantic.ValidationError as error:
                failed += 1
                print(answer["name"], answer["text"], error, sep="\n", file=sys.stderr)
        print(f"{len(answers)} answers, {failed} not valid")
        sys.exit(failed > 0)
    for name, model in models():
        print(json.dumps({"name": name, "schema": model.model_json_schema()}, ensure_ascii=False))


if __name__ == "__main__":
    main()
