//! A service whose arguments and replies are of every shape.

#[lepus::service]
pub(super) trait Shapes {
    async fn nothing(&self);
    async fn several(&self, a: u8, b: Option<String>, c: Vec<(i64, f64)>) -> (u8, Option<String>);
    async fn nested(&self, of: Vec<Option<Vec<u8>>>) -> Result<Vec<Option<Vec<u8>>>, ()>;
    async fn unit_or_text(&self, fail: bool) -> Result<(), String>;
    #[rpc(name = "type")]
    async fn renamed(&self, r#type: String) -> String;
    #[rpc(params = "bare")]
    async fn bare(&self, number: i64) -> i64;
}

pub(super) struct Shaper;

impl Shapes for Shaper {
    async fn nothing(&self) {}

    async fn several(&self, a: u8, b: Option<String>, c: Vec<(i64, f64)>) -> (u8, Option<String>) {
        assert_eq!(c, [(-1, 0.5), (i64::MAX, f64::MIN)]);
        (a, b)
    }

    async fn nested(&self, of: Vec<Option<Vec<u8>>>) -> Result<Vec<Option<Vec<u8>>>, ()> {
        if of.is_empty() { Err(()) } else { Ok(of) }
    }

    async fn unit_or_text(&self, fail: bool) -> Result<(), String> {
        if fail { Err("no".into()) } else { Ok(()) }
    }

    async fn renamed(&self, r#type: String) -> String {
        r#type
    }

    async fn bare(&self, number: i64) -> i64 {
        number
    }
}

pub(super) async fn call_every_shape(shapes: &ShapesClient) {
    shapes.nothing().await.unwrap();
    let pairs = vec![(-1, 0.5), (i64::MAX, f64::MIN)];
    let several = shapes.several(255, Some("häse".into()), pairs.clone());
    assert_eq!(several.await.unwrap(), (255, Some("häse".into())));
    assert_eq!(shapes.several(0, None, pairs).await.unwrap(), (0, None));
    let nested = vec![None, Some(vec![]), Some(vec![0, 255])];
    assert_eq!(shapes.nested(nested.clone()).await.unwrap(), nested);
    assert_eq!(
        shapes.nested(vec![]).await.unwrap_err().service(),
        Some(&())
    );
    shapes.unit_or_text(false).await.unwrap();
    let error = shapes.unit_or_text(true).await.unwrap_err();
    assert_eq!(error.service().map(String::as_str), Some("no"));
    assert_eq!(shapes.renamed("r#".into()).await.unwrap(), "r#");
    assert_eq!(shapes.bare(i64::MIN).await.unwrap(), i64::MIN);
}
